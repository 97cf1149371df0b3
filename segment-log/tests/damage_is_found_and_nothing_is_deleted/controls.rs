//! That the oracle can fail: a recovery with a planted fault comes out otherwise under the same damages.

use tidelog_segment_log::recovery::RecoveryBug;

use crate::bits::flipped;
use crate::files::borders;
use crate::fixture::write;
use crate::oracle::judge;

#[test]
fn a_recovery_that_checks_headers_only_is_found_out() {
    let fixture = write(false);
    // What it accepts is not served, since reads check; but the damage is not reported, and a torn entry
    // is taken for one that is there.
    let taken = |bug| {
        let path = fixture.segments().pop().unwrap();
        let edges = borders(fixture.disk.file(&path).unwrap());
        let payload = (edges[edges.len() - 2] + 64 + 40) * 8;
        judge(&fixture, flipped(&fixture, &path, payload), bug).unwrap()
    };
    let (sound, faulty) = (taken(RecoveryBug::None), taken(RecoveryBug::TrustPayload));
    assert_eq!(
        (sound.unproven.len(), sound.unreadable.len()),
        (1, 0),
        "{sound:?}"
    );
    assert_eq!(
        (faulty.unproven.len(), faulty.unreadable.len()),
        (0, 1),
        "{faulty:?}"
    );
}
