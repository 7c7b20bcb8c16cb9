//! Building parts, with a stand-in for `go` that says what it was asked: the real builds take minutes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::Result;

/// Prints a version, "builds" by writing the file after `-o`, "downloads" a module by naming a folder.
const GO: &str = r#"#!/bin/sh
here=${0%/*}
case "$1" in
  env) echo go1.26.8 ;;
  build)
    while [ "$1" != -o ]; do shift; done
    echo "$3" >> "$here/built"
    sleep 0.2
    if [ -e "$here/broken" ]; then echo "undefined: widget" >&2; exit 1; fi
    echo binary > "$2" ;;
  mod) echo "{\"Dir\": \"$here/module\"}" ;;
esac
"#;

/// An empty cache and a PATH with our `go` and what its script needs.
struct Lab {
    dir: PathBuf,
}

impl Lab {
    fn new(name: &str) -> Result<Self> {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let crd = |name: &str| {
            format!(
                "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {name}}}\n"
            )
        };
        fs::create_dir_all(dir.join("module/kubernetes"))?;
        fs::create_dir_all(dir.join("module/config/crd/standard"))?;
        let istio = crd("virtualservices.networking.istio.io") + &crd("sidecars.networking.istio.io");
        fs::write(dir.join("module/kubernetes/customresourcedefinitions.gen.yaml"), istio)?;
        fs::write(
            dir.join("module/config/crd/standard/routes.yaml"),
            crd("httproutes.gateway.networking.k8s.io"),
        )?;
        let traefik = dir.join("module/docs/content/reference/dynamic-configuration");
        fs::create_dir_all(&traefik)?;
        fs::write(traefik.join("kubernetes-crd-definition-v1.yml"), crd("traefikservices.traefik.io"))?;
        let go = dir.join("go");
        fs::write(&go, GO)?;
        fs::set_permissions(&go, fs::Permissions::from_mode(0o755))?;
        Ok(Self { dir })
    }

    fn build(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ground"));
        command.arg("build").env("SIDETRACK_GROUND_DIR", self.dir.join("cache"));
        command.env("PATH", format!("{}:/usr/bin:/bin", self.dir.display()));
        command
    }

    fn built(&self) -> Vec<String> {
        let built = fs::read_to_string(self.dir.join("built")).unwrap_or_default();
        built.lines().map(|package| package.rsplit('/').next().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn parallel_builds_build_each_part_once_and_a_later_one_needs_no_go() -> Result<()> {
    let lab = Lab::new("once")?;
    let (one, two) =
        (lab.build().stdout(Stdio::null()).stderr(Stdio::null()).spawn()?, lab.build().output()?);
    let one = one.wait_with_output()?;
    assert!(one.status.success() && two.status.success(), "{}", said(&two));
    assert_eq!(lab.built(), ["v3", "kube-apiserver", "kube-controller-manager", "kubectl", "kwok"]);

    fs::remove_file(lab.dir.join("go"))?;
    let later = lab.build().env("PATH", &lab.dir).output()?;
    assert!(later.status.success() && said(&later).is_empty(), "{}", said(&later));
    Ok(())
}

#[test]
fn failed_build_names_the_log_and_its_last_lines() -> Result<()> {
    let lab = Lab::new("broken")?;
    fs::write(lab.dir.join("broken"), "")?;
    let output = lab.build().output()?;
    let said = said(&output);
    assert!(!output.status.success());
    assert!(
        said.contains("undefined: widget") && said.contains("build.log") && said.contains("etcd"),
        "{said}"
    );

    fs::remove_file(lab.dir.join("broken"))?;
    assert!(lab.build().output()?.status.success(), "a failed build leaves nothing that passes for a binary");
    Ok(())
}

#[test]
fn missing_go_says_what_to_install() -> Result<()> {
    let lab = Lab::new("missing")?;
    fs::remove_file(lab.dir.join("go"))?;
    let output = lab.build().env("PATH", &lab.dir).output()?;
    assert!(!output.status.success());
    assert!(said(&output).contains("install Go 1.26 or newer"), "{}", said(&output));
    Ok(())
}
