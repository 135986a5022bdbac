//! A read that others hold up and end.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use marquee::memory::pace::Pace;

/// A thread that says when each piece of its work is done, to somebody who takes it.
fn worker(pace: &Arc<Pace>, done: SyncSender<()>) -> JoinHandle<String> {
    let pace = Arc::clone(pace);
    thread::spawn(move || {
        loop {
            if let Err(error) = pace.keep() {
                return error.to_string();
            }
            if done.send(()).is_err() {
                return "nobody listens".to_owned();
            }
        }
    })
}

#[test]
fn a_read_that_is_held_up_goes_on_where_it_was() {
    let pace = Arc::new(Pace::default());
    let (done, work) = sync_channel(0);
    let thread = worker(&pace, done);
    work.recv().unwrap();
    pace.hold();
    // What had begun ends, one piece at most; long enough for the next to show, were there one.
    let _ = work.recv_timeout(Duration::from_millis(20));
    assert_eq!(work.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout));
    pace.go_on();
    work.recv().unwrap();
    drop(work);
    assert_eq!(thread.join().unwrap(), "nobody listens");
}

#[test]
fn a_read_can_be_ended_while_it_is_held_up_and_stays_ended() {
    let pace = Arc::new(Pace::default());
    pace.hold();
    let (done, work) = sync_channel(0);
    let thread = worker(&pace, done);
    pace.stop();
    assert!(thread.join().unwrap().contains("stopped"));
    assert!(work.recv().is_err(), "it did nothing");
    pace.hold();
    pace.go_on();
    assert!(pace.keep().is_err());
}
