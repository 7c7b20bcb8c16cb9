module sidetrack.dev/hack/istio-api

go 1.26.0

require istio.io/api v1.27.1
