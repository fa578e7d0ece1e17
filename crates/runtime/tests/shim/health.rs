//! Health: hung programs are restarted, deaf ones leave the rotation.

use crate::instance::{GIVEN, Instance, gone, server};
use seaworthy_base::Code;
use seaworthy_runtime::model::ExitReason;
use seaworthy_runtime::model::Phase;

#[test]
fn a_hung_program_is_restarted() {
    let one = Instance::new(server(GIVEN, "")).with(|spec| {
        spec.live.path = Some("/".to_owned());
        spec.ready.path = Some("/".to_owned());
    });
    let one = one.launch();
    let before = one.ready();
    one.client().signal("STOP").ok();
    seaworthy_sys::process::signal_process(before.pid.unwrap(), 19);
    let after = one.until("another process", |status| {
        status.phase == Phase::Ready && status.pid != before.pid
    });
    assert_eq!(after.last_exit.unwrap().reason, ExitReason::Hung);
    gone(before.pid.unwrap());
}

#[test]
fn a_live_program_that_was_never_ready_is_restarted_when_it_hangs() {
    let extra = "
def do_GET(self):
  if self.path=='/live' and not os.path.exists('hang'): self.send_response(200)
  elif self.path=='/live': time.sleep(600)
  else: self.send_response(503)
  self.send_header('Content-Length','0'); self.end_headers()
H.do_GET=do_GET
";
    let one = Instance::new(server(GIVEN, extra)).with(|spec| {
        spec.live.path = Some("/live".to_owned());
        spec.ready.path = Some("/ready".to_owned());
        spec.ready.start_ms = 600;
        spec.live.start_ms = 600;
    });
    let one = one.launch();
    let before = one.until("unready", |status| status.phase == Phase::Unready);
    assert_eq!(before.fault.unwrap().code, Code::NotReady);
    std::fs::write(one.dir.path().join("hang"), "").unwrap();
    one.until("restarted", |status| {
        status.last_exit.as_ref().is_some_and(|exit| exit.reason == ExitReason::Hung)
    });
}

#[test]
fn a_program_that_stops_listening_is_no_longer_ready() {
    let extra = "
def later():
  while not os.path.exists('close'): time.sleep(.02)
  s.shutdown(); s.server_close(); time.sleep(600)
threading.Thread(target=later).start()
";
    // The checks come more seldom than the look at the sockets: both ways must notice.
    for every_ms in [200, 11_000] {
        let one = Instance::new(server(GIVEN, extra)).with(|spec| {
            (spec.ready.every_ms, spec.ready.failures) = (every_ms, 1);
            spec.live.failures = 1_000_000;
        });
        stops_listening(&one.launch());
    }
}

fn stops_listening(one: &Instance) {
    one.ready();
    std::fs::write(one.dir.path().join("close"), "").unwrap();
    one.until("unready or restarted", |status| status.phase != Phase::Ready);
}
