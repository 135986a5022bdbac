//! Run times on disk are a convenience: their loss costs no job.

use marquee::worker::End;

use crate::support::fakes::{RecordingSink, job, painted, rig, run_all};

#[tokio::test]
async fn a_disk_that_takes_no_file_costs_the_forecast_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let occupied = folder.path().join("file");
    std::fs::write(&occupied, b"not a folder").unwrap();
    let path = occupied.join("statistics.json");
    let sinks = [RecordingSink::new(), RecordingSink::new()];
    let rig = rig(&[("MARQUEE_STATISTICS_FILE", path.to_str().unwrap())], |plan, _| Ok(painted(plan)));
    let jobs = sinks.iter().map(|sink| job("a", sink)).collect();
    assert_eq!(run_all(rig, jobs).await, End::Drained);
    for sink in sinks {
        assert_eq!(sink.delivered().as_deref(), Some("completed"));
    }
}

#[tokio::test]
async fn a_finished_run_leaves_its_times_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/statistics.json");
    let sink = RecordingSink::new();
    let rig = rig(&[("MARQUEE_STATISTICS_FILE", path.to_str().unwrap())], |plan, ctx| {
        for (sub_step, units) in plan.sub_steps() {
            for done in 0..=units {
                ctx.progress(sub_step, done, units);
            }
        }
        Ok(painted(plan))
    });
    run_all(rig, vec![job("a", &sink)]).await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("background_generation/test/256x256"), "{text}");
}
