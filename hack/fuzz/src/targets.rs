//! What strangers hand us, as functions of bytes: none of them may panic, and each says what must hold besides.

use sidetrack::admission::decide::{Entrance, Settings, decide_at};
use sidetrack::admission::outcome::Verdict;
use sidetrack::admission::{patch, review, server};
use sidetrack::api::request::{Request, Verb};
use sidetrack::foreign;
use sidetrack::hooks::Hook;
use sidetrack::metrics::prometheus::{online, sample};
use sidetrack::metrics::render::{Model, render};
use sidetrack::outbound::{Exchange, HttpResponse};

/// A name and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 4] =
    [("review", reviewed), ("request", requested), ("template", rendered), ("answer", answered)];

/// A review by each entrance: what is allowed with a patch can be patched, and says the same when it is asked again.
pub fn reviewed(data: &[u8]) {
    let Ok(request) = review::parse(data) else { return };
    let settings = Settings::default();
    let policy = |layout: &str| Entrance::Policy { name: "shop".into(), layout: layout.into() };
    let audit = Entrance::Audit { name: "shop".into() };
    for entrance in [Entrance::Enrolled, policy("in-place"), policy("primary-copy"), audit] {
        let outcome = decide_at(&entrance, &request, &settings);
        let Ok(answer) = server::respond(&request, &outcome) else { continue };
        assert!(answer.to_bytes().is_ok(), "an answer that cannot be sent");
        let Ok(changes) = patch::build(&request.object, &outcome.verdict) else { continue };
        if matches!(outcome.verdict, Verdict::Deny(_)) {
            continue;
        }
        let mut again = request.clone();
        assert!(json_patch::patch(&mut again.object, &changes).is_ok(), "a patch that does not fit");
        let second = decide_at(&entrance, &again, &settings);
        assert!(
            patch::build(&again.object, &second.verdict).is_ok_and(|changes| changes.0.is_empty()),
            "asked again by {entrance:?}, another answer: {:?} then {:?}",
            outcome.verdict,
            second.verdict
        );
    }
}

/// A request: the API server's policy asks for the right of its first word, up to the first space, so that is the verb or
/// there is none; and what is read is written as it was.
pub fn requested(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let first = text.split(' ').next().unwrap_or_default();
    if let Ok(request) = Request::parse(text) {
        assert_eq!(Verb::parse(first), Some(request.verb), "another verb than the policy reads");
        let again = Request::parse(&request.to_string());
        assert_eq!(again.as_ref(), Ok(&request), "written otherwise than read");
    }
}

/// A query template, of whose text the first line are the variables.
pub fn rendered(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (variables, template) = text.split_once('\n').unwrap_or(("", text));
    let mut model =
        Model { name: "app".into(), namespace: "test".into(), interval: "1m".into(), ..Model::default() };
    model.variables =
        variables.split(';').filter_map(|v| v.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    let longest = model.variables.values().map(String::len).max().unwrap_or(0).max(16);
    if let Ok(query) = render(template, &model) {
        assert!(
            query.len() <= template.len() + template.matches("{{").count() * longest,
            "a query that grows"
        );
    }
}

/// The answer of a metrics server or a hook, of which the first two bytes are the status: what is said of it is an excerpt.
pub fn answered(data: &[u8]) {
    let Some((status, body)) = data.split_first_chunk::<2>() else { return };
    let status = 100 + u16::from_be_bytes(*status) % 500;
    let exchange: Exchange = Ok(HttpResponse { status, body: body.to_vec() });
    let said = [
        sample(&exchange).err().map(|e| e.to_string()),
        online(&exchange).err(),
        Hook::default().verdict(&exchange).err(),
    ];
    for text in said.into_iter().flatten() {
        let cut = foreign::cut(&text);
        assert!(cut.len() <= foreign::LONGEST && !cut.contains(|c: char| c.is_control()), "{cut:?}");
        assert_eq!(foreign::cut(&cut), cut, "an excerpt of an excerpt");
    }
}
