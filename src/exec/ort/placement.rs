//! Where ONNX Runtime put the nodes of a graph: a provider that takes none leaves them all to the CPU,
//! without a word.

use ort::session::Session;
use ort::{AsPointer, ortsys};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr;

/// Session option that makes ONNX Runtime keep the record.
pub(super) const RECORD_OPTION: &str = "session.record_ep_graph_assignment_info";

/// Number of nodes of the original graph per execution provider; needs [`RECORD_OPTION`].
///
/// # Errors
/// The runtime's words if it keeps no record.
#[allow(unsafe_code, reason = "`ort` has no wrapper for the assignment record of API 24")]
pub(super) fn nodes_by_provider(session: &Session) -> ort::Result<BTreeMap<String, usize>> {
    let mut subgraphs: *const *const ort::sys::OrtEpAssignedSubgraph = ptr::null();
    let mut count = 0;
    // SAFETY: the session is alive and borrowed; both out-parameters outlive the call. The array that comes
    // back belongs to the session, with `count` valid entries.
    ortsys![unsafe Session_GetEpGraphAssignmentInfo(session.ptr(), &mut subgraphs, &mut count)?];
    let mut nodes = BTreeMap::new();
    for index in 0..count {
        let mut name: *const c_char = ptr::null();
        let mut list: *const *const ort::sys::OrtEpAssignedNode = ptr::null();
        let mut length = 0;
        // SAFETY: `index < count`; see above.
        let subgraph = unsafe { *subgraphs.add(index) };
        // SAFETY: a valid subgraph of a live session; the out-parameters outlive the calls.
        ortsys![unsafe EpAssignedSubgraph_GetEpName(subgraph, &mut name)?];
        // SAFETY: as above.
        ortsys![unsafe EpAssignedSubgraph_GetNodes(subgraph, &mut list, &mut length)?];
        if !name.is_null() {
            // SAFETY: not null, and per the API's documentation a null-terminated string owned by the session.
            let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
            *nodes.entry(name).or_insert(0) += length;
        }
    }
    Ok(nodes)
}
