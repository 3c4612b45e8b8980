//! No pod has more rights than it needs.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{PodSpec, Volume};
use runmesh_deploy_tests::{VALUES, render};

fn pods(values: &str) -> anyhow::Result<Vec<PodSpec>> {
    let objects = render(values, &[])?;
    let pods = objects.deployments.into_iter().map(|deployment| deployment.spec.and_then(|spec| spec.template.spec));
    let pods = pods.map(|pod| pod.context("a Deployment without pods")).collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!pods.is_empty(), "nothing is rendered");
    Ok(pods)
}

#[test]
fn no_container_runs_as_root_or_can_become_it() -> anyhow::Result<()> {
    for values in VALUES {
        for pod in pods(values)? {
            let context = pod.security_context.context("no security context")?;
            assert_eq!(context.run_as_non_root, Some(true));
            assert!(context.run_as_user.is_some_and(|user| user > 0));
            assert!(context.run_as_group.is_some_and(|group| group > 0));
            assert_eq!(context.seccomp_profile.map(|profile| profile.type_), Some("RuntimeDefault".to_owned()));
            for container in pod.containers {
                let context = container.security_context.context("no security context")?;
                assert_eq!(context.allow_privilege_escalation, Some(false));
                assert_ne!(context.privileged, Some(true));
                assert!(context.run_as_user.is_none() && context.run_as_non_root.is_none(), "the pod's holds");
                let capabilities = context.capabilities.context("capabilities are not dropped")?;
                assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
                assert_eq!(capabilities.add, None);
            }
        }
    }
    Ok(())
}

#[test]
fn only_the_folders_for_data_can_be_written_to() -> anyhow::Result<()> {
    for values in VALUES {
        for pod in pods(values)? {
            let volumes = pod.volumes.unwrap_or_default();
            let volume = |name: &str| -> anyhow::Result<&Volume> {
                volumes.iter().find(|volume| volume.name == name).with_context(|| format!("no volume {name}"))
            };
            for container in pod.containers {
                let context = container.security_context.context("no security context")?;
                assert_eq!(context.read_only_root_filesystem, Some(true));
                for mount in container.volume_mounts.unwrap_or_default() {
                    let is_scratch = volume(&mount.name)?.empty_dir.is_some();
                    assert_eq!(mount.read_only != Some(true), is_scratch, "{}", mount.mount_path);
                }
            }
            for volume in &volumes {
                let bounded = volume.empty_dir.as_ref().is_some_and(|folder| folder.size_limit.is_some());
                ensure!(bounded || volume.config_map.is_some() || volume.secret.is_some(), "{volume:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn no_pod_has_rights_in_the_cluster_or_shares_its_node() -> anyhow::Result<()> {
    for values in VALUES {
        // That there is no Role or binding: Objects::parse refuses kinds that it does not know.
        for account in render(values, &[])?.accounts {
            assert_eq!(account.automount_service_account_token, Some(false));
        }
        for pod in pods(values)? {
            assert_eq!(pod.automount_service_account_token, Some(false));
            assert_eq!(pod.enable_service_links, Some(false));
            assert!(
                [pod.host_network, pod.host_pid, pod.host_ipc, pod.share_process_namespace].iter().all(Option::is_none)
            );
        }
    }
    Ok(())
}

#[test]
fn memory_is_bounded_and_what_is_needed_is_asked_for() -> anyhow::Result<()> {
    for values in VALUES {
        for pod in pods(values)? {
            for container in pod.containers {
                let resources = container.resources.context("no resources")?;
                assert!(resources.limits.is_some_and(|limits| limits.contains_key("memory")));
                let requests = resources.requests.context("no requests")?;
                assert!(requests.contains_key("cpu") && requests.contains_key("memory"));
            }
        }
    }
    Ok(())
}
