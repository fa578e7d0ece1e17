//! `status --json`, with the questions that tests ask of it.

use std::net::SocketAddr;

use serde_json::Value;

/// The platform as it says it is.
#[derive(Debug, Clone)]
pub struct Status(Value);

impl Status {
    /// Wraps the document.
    pub fn new(document: Value) -> Self {
        Self(document)
    }

    /// The document itself.
    pub fn document(&self) -> &Value {
        &self.0
    }

    /// Control's process.
    #[track_caller]
    pub fn control_pid(&self) -> u32 {
        pid(&self.0["control"]["pid"]).expect("status names control's process")
    }

    /// The edge's process, when there is one.
    pub fn edge_pid(&self) -> Option<u32> {
        pid(&self.0["edge"]["pid"])
    }

    /// Where plain HTTP is served.
    #[track_caller]
    pub fn http(&self) -> SocketAddr {
        self.address("http")
    }

    /// Where HTTPS is served.
    #[track_caller]
    pub fn https(&self) -> SocketAddr {
        self.address("https")
    }

    #[track_caller]
    fn address(&self, kind: &str) -> SocketAddr {
        let text = self.0["edge"][kind][0].as_str();
        text.and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("status names no {kind} address: {}", self.0["edge"]))
    }

    /// Open WebSockets and other upgraded connections at the edge.
    pub fn upgraded(&self) -> u64 {
        self.0["edge"]["upgraded"].as_u64().unwrap_or(0)
    }

    /// The site, null when there is none of that name.
    pub fn site(&self, name: &str) -> &Value {
        find(&self.0["sites"], name)
    }

    /// Instances of `site/service`.
    pub fn instances(&self, of: &str) -> Vec<Value> {
        let (site, service) = of.split_once('/').expect("`site/service`");
        find(&self.site(site)["services"], service)["instances"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    /// Processes of the instances of `site/service` that are ready, sorted.
    pub fn ready_pids(&self, of: &str) -> Vec<u32> {
        let mut pids: Vec<u32> = self
            .instances(of)
            .iter()
            .filter(|one| one["state"] == "ready")
            .filter_map(|one| pid(&one["pid"]))
            .collect();
        pids.sort_unstable();
        pids
    }

    /// The first fault of that code, of an instance, a site or the platform.
    pub fn fault(&self, code: &str) -> Option<Value> {
        self.faults().into_iter().find(|fault| fault["code"] == code)
    }

    /// Every fault there is, the platform's first.
    pub fn faults(&self) -> Vec<Value> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut all = list(&self.0["faults"]);
        for site in list(&self.0["sites"]) {
            all.extend(list(&site["faults"]));
            for service in list(&site["services"]) {
                all.extend(
                    list(&service["instances"])
                        .into_iter()
                        .map(|one| one["fault"].clone())
                        .filter(|fault| !fault.is_null()),
                );
            }
        }
        all
    }
}

fn pid(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|pid| u32::try_from(pid).ok())
}

fn find<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array()
        .and_then(|list| list.iter().find(|one| one["name"] == name))
        .unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pids_addresses_and_faults_are_found() {
        let status = Status::new(json!({
            "control": {"pid": 7}, "edge": {"pid": null, "https": ["127.0.0.1:9"]}, "faults": [],
            "sites": [{"name": "shop", "faults": [{"code": "A"}], "services": [{"name": "web", "instances": [
                {"state": "ready", "pid": 12, "fault": null}, {"state": "ready", "pid": 11}, {"state": "backoff", "pid": 13, "fault": {"code": "B"}}
            ]}]}]
        }));
        assert_eq!((status.control_pid(), status.edge_pid(), status.https().port()), (7, None, 9));
        assert_eq!(status.ready_pids("shop/web"), [11, 12]);
        assert_eq!(status.faults().len(), 2);
        assert!(status.fault("B").is_some() && status.fault("C").is_none());
        assert!(status.instances("shop/none").is_empty());
    }
}
