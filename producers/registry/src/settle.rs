//! Appends entries of agents or tools, each derived from the last entry of its key, while others append as well.
//!
//! Kafka has no conditional append. So a writer reads the topic, appends, and reads again: if an entry that it had not read
//! precedes its own, it derives its entry again from that one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use agentgov_schemas::wire::{EncodeError, WireError};
use agentgov_schemas::{Record, RecordEncoder};

use crate::fold::{Decoded, UnreadableReason, fold};
use crate::push::{Delivery, append};
use crate::{Error, RegistryContext};

/// Maximum number of appends for one call. Each one but the first needs another writer in the milliseconds of the one before.
pub(crate) const MAX_ROUNDS: usize = 8;

/// Entry of an agent, a tool or a server. The last one of a key is the valid one.
pub(crate) trait Entry: Clone + PartialEq {
    /// Record of the entry.
    type Record: Record<Static = Self::Record>;
    /// State of what is registered.
    type State: Copy + PartialEq;
    /// State in which policies decide.
    const ACTIVE: Self::State;

    /// Returns the key of the record.
    fn key(&self) -> String;

    /// Returns the state.
    fn state(&self) -> Self::State;

    /// Encodes the record.
    fn encode(
        &self,
        pushed_by: &str,
        encoder: &mut RecordEncoder<Self::Record>,
    ) -> Result<Vec<u8>, EncodeError>;

    /// Reads a record.
    fn read(decoded: &Decoded<'_, Self::Record>) -> Result<ReadEntry<Self>, WireError>;
}

/// A record of the topic, as read.
pub(crate) struct ReadEntry<E> {
    pub(crate) key: String,
    pub(crate) pushed_by: String,
    /// The entry, or the reason for which this build cannot read it.
    pub(crate) entry: Result<E, UnreadableReason>,
}

/// An entry of one key in the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoggedEntry<E> {
    pub(crate) offset: i64,
    /// The entry, or the reason for which this build cannot read it.
    pub(crate) entry: Result<E, String>,
}

/// Entries by key, in the order of the topic.
pub(crate) type History<E> = BTreeMap<String, Vec<LoggedEntry<E>>>;

/// Entry after [`update`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Updated<E, S> {
    pub(crate) entry: E,
    /// When all in-sync replicas had the last entry that the call appended. Absent if it appended none.
    pub(crate) acknowledged: Option<Instant>,
    /// State in the topic's last entry, which another writer may have appended after the own one. Absent if this build cannot
    /// read the entry.
    pub(crate) last_state: Option<S>,
}

/// Entries after [`update`], by key.
pub(crate) type UpdatedEntries<E> = BTreeMap<String, Updated<E, <E as Entry>::State>>;

/// Appends the entry that `derive` returns for each key, the entries of others and the last entry that this call has appended, unless
/// the last entry equals it. If `derive` fails after an append, restores the entry of others that the appended one replaced.
pub(crate) fn update<E: Entry>(
    context: RegistryContext<'_>,
    keys: &BTreeSet<String>,
    pushed_by: &str,
    derive: impl Fn(&str, &[LoggedEntry<E>], Option<&E>) -> Result<E, Error>,
) -> Result<UpdatedEntries<E>, Error> {
    let topic = context.topic::<E::Record>()?;
    let append = |entries: &[E]| {
        let mut encoder = topic.encoder()?;
        let encoded = entries.iter().map(|entry| {
            let key = entry.key();
            let value = entry
                .encode(pushed_by, &mut encoder)
                .map_err(|e| Error::Encode { key: key.clone(), message: e.to_string() })?;
            Ok((key, value))
        });
        append(&topic, &encoded.collect::<Result<Vec<_>, Error>>()?)
    };
    let unsettled = |round| Error::Contended { topic: topic.name.to_owned(), round };
    settle(keys, || read_history(context, keys), append, derive, unsettled)
}

/// Reads the entries of `keys`.
fn read_history<E: Entry>(
    context: RegistryContext<'_>,
    keys: &BTreeSet<String>,
) -> Result<History<E>, Error> {
    let mut history = History::new();
    fold(&context.topic::<E::Record>()?, |position, decoded| {
        let ReadEntry { key, entry, .. } = E::read(decoded)?;
        if keys.contains(&key) {
            let entry = entry.map_err(|reason| reason.to_string());
            history.entry(key).or_default().push(LoggedEntry { offset: position.offset, entry });
        }
        Ok(())
    })?;
    Ok(history)
}

/// Reads and appends until each own entry is the one that `derive` returns for the entries of others before it. `append` returns
/// the delivery of each key's entry.
fn settle<E: Entry>(
    keys: &BTreeSet<String>,
    mut read: impl FnMut() -> Result<History<E>, Error>,
    mut append: impl FnMut(&[E]) -> Result<BTreeMap<String, Delivery>, Error>,
    derive: impl Fn(&str, &[LoggedEntry<E>], Option<&E>) -> Result<E, Error>,
    unsettled: impl Fn(usize) -> Error,
) -> Result<UpdatedEntries<E>, Error> {
    let mut own: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut acknowledged: BTreeMap<String, Instant> = BTreeMap::new();
    for _ in 0..MAX_ROUNDS {
        let history = read()?;
        let (mut settled, mut missing) = (BTreeMap::new(), Vec::new());
        for key in keys {
            let entries = history.get(key).map_or(&[][..], Vec::as_slice);
            let own = own.get(key).map_or(&[][..], Vec::as_slice);
            let last_own = own.last().and_then(|offset| entry_at(entries, *offset));
            let of_others = entries_of_others(entries, own);
            let entry = match derive(key, &of_others, last_own) {
                Ok(entry) => entry,
                Err(error) => {
                    if let Some(replaced) = replaced_entry(entries, own, &of_others) {
                        append(std::slice::from_ref(replaced))?;
                    }
                    return Err(error);
                }
            };
            let current = if own.is_empty() { entries.last().and_then(readable) } else { last_own };
            if current == Some(&entry) {
                let last_state = entries.last().and_then(readable).map(Entry::state);
                let acknowledged = acknowledged.get(key).copied();
                settled.insert(key.clone(), Updated { entry, acknowledged, last_state });
            } else {
                missing.push(entry);
            }
        }
        if missing.is_empty() {
            return Ok(settled);
        }
        for (key, delivery) in append(&missing)? {
            acknowledged.insert(key.clone(), delivery.acknowledged);
            let own = own.entry(key).or_default();
            // A broker that has a repeated batch already may not return its offset. Then the entry counts as another writer's.
            own.extend((delivery.offset >= 0).then_some(delivery.offset));
        }
    }
    Err(unsettled(MAX_ROUNDS))
}

/// Returns the entries of others before the last own one, or all entries if there is no own one. Later entries were derived from
/// the own one, or their writers derive them again.
fn entries_of_others<E: Clone>(entries: &[LoggedEntry<E>], own: &[i64]) -> Vec<LoggedEntry<E>> {
    let end = own.last().copied().unwrap_or(i64::MAX);
    entries.iter().filter(|entry| entry.offset < end && !own.contains(&entry.offset)).cloned().collect()
}

/// Returns the entry of others that an own one has replaced, unless the topic's last entry has its state again. A restored entry
/// is never active.
fn replaced_entry<'e, E: Entry>(
    entries: &[LoggedEntry<E>],
    own: &[i64],
    of_others: &'e [LoggedEntry<E>],
) -> Option<&'e E> {
    let replaced = of_others.iter().rev().find_map(readable).filter(|_| !own.is_empty())?;
    let last = entries.last().and_then(readable).map(Entry::state);
    let state = replaced.state();
    (state != E::ACTIVE && last != Some(state)).then_some(replaced)
}

fn entry_at<E>(entries: &[LoggedEntry<E>], offset: i64) -> Option<&E> {
    entries.iter().find(|entry| entry.offset == offset).and_then(readable)
}

/// Returns the entry if this build can read it.
pub(crate) fn readable<E>(entry: &LoggedEntry<E>) -> Option<&E> {
    entry.entry.as_ref().ok()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use agentgov_schemas::governance::AgentState;

    use super::*;
    use crate::push::pushed_agent;
    use crate::suspension::tests::agent;
    use crate::suspension::{derive_agent, update_until_last};
    use crate::{Agent, RegisteredAgent, Suspension};

    const KEY: &str = "acme/clerk";

    fn registered(state: AgentState, owner: &str, reason: &str) -> RegisteredAgent {
        RegisteredAgent { agent: Agent { owner: owner.into(), ..agent(state) }, reason: reason.into() }
    }

    /// Entries of others right before an append of the writer under test, and right after it.
    #[derive(Default)]
    struct Others {
        before: Vec<RegisteredAgent>,
        after: Vec<RegisteredAgent>,
    }

    impl Others {
        fn before(entries: &[RegisteredAgent]) -> Self {
            Self { before: entries.to_vec(), after: Vec::new() }
        }

        fn after(entries: &[RegisteredAgent]) -> Self {
            Self { before: Vec::new(), after: entries.to_vec() }
        }
    }

    /// Topic into which others append between the reads and the appends of the writer under test.
    struct Topic {
        entries: RefCell<Vec<RegisteredAgent>>,
        /// Entries of others at each append of the writer, the last first.
        others: RefCell<Vec<Others>>,
    }

    impl Topic {
        fn new(first: &[RegisteredAgent], others: impl IntoIterator<Item = Others>) -> Self {
            let mut others: Vec<Others> = others.into_iter().collect();
            others.reverse();
            Self { entries: RefCell::new(first.to_vec()), others: RefCell::new(others) }
        }

        fn update(
            &self,
            derive: impl Fn(
                &[LoggedEntry<RegisteredAgent>],
                Option<&RegisteredAgent>,
            ) -> Result<RegisteredAgent, Error>,
        ) -> Result<Updated<RegisteredAgent, AgentState>, Error> {
            let read = || {
                let entries = self.entries.borrow();
                let logged = (0..).zip(entries.iter().cloned());
                let logged = logged.map(|(offset, agent)| LoggedEntry { offset, entry: Ok(agent) });
                Ok(History::from([(KEY.to_owned(), logged.collect())]))
            };
            let append = |appended: &[RegisteredAgent]| {
                let mut entries = self.entries.borrow_mut();
                let Others { before, after } = self.others.borrow_mut().pop().unwrap_or_default();
                entries.extend(before);
                entries.extend_from_slice(appended);
                let offset = i64::try_from(entries.len()).unwrap() - 1;
                entries.extend(after);
                Ok(BTreeMap::from([(KEY.to_owned(), Delivery { offset, acknowledged: Instant::now() })]))
            };
            let keys = BTreeSet::from([KEY.to_owned()]);
            let unsettled = |round| Error::Contended { topic: "agents".into(), round };
            let updated = settle(&keys, read, append, |_, entries, own| derive(entries, own), unsettled)?;
            Ok(updated.get(KEY).unwrap().clone())
        }

        /// Updates the agent as [`change_suspension`](crate::change_suspension) does.
        fn change(&self, suspension: Suspension) -> Result<Option<Instant>, Error> {
            update_until_last(suspension, suspension.state(), ("agent", KEY), || {
                self.update(|entries, _| derive_agent(suspension, KEY, "because", entries))
            })
        }

        fn last(&self) -> RegisteredAgent {
            self.entries.borrow().last().unwrap().clone()
        }

        fn states(&self) -> Vec<AgentState> {
            self.entries.borrow().iter().map(|entry| entry.agent.state).collect()
        }
    }

    #[test]
    fn push_lifts_no_suspension_of_another_writer_at_any_moment() {
        use AgentState::{Active, Suspended};
        let file = Agent { owner: "new".into(), ..agent(Active) };
        let push =
            |topic: &Topic| topic.update(|entries, own| Ok(pushed_agent(&file, entries, own))).unwrap();
        let (active, suspended) = (registered(Active, "old", ""), registered(Suspended, "old", "why"));
        let kept = registered(Suspended, "new", "why");
        let (before, of_others) = (Others::before, registered(Active, "third", ""));
        for (case, first, others) in [
            ("before the push", vec![active.clone(), suspended.clone()], None),
            ("during the push", vec![active.clone()], Some(before(std::slice::from_ref(&suspended)))),
            (
                "of an agent registered during the push",
                vec![],
                Some(before(&[active.clone(), suspended.clone()])),
            ),
            (
                "during the push, which a second one follows",
                vec![active],
                Some(Others { before: vec![suspended], after: vec![of_others] }),
            ),
        ] {
            let topic = Topic::new(&first, others);
            let pushed = push(&topic);
            assert_eq!((&pushed.entry, pushed.acknowledged.is_some()), (&kept, true), "suspended {case}");
            assert_eq!(topic.last(), kept, "suspended {case}");
        }
        // A retirement between an own entry that keeps a suspension and the next one.
        let suspended = registered(Suspended, "old", "why");
        let retired = registered(AgentState::Retired, "old", "");
        let first = [suspended.clone()];
        let topic = Topic::new(&first, [Others::before(&[suspended, retired])]);
        assert_eq!(push(&topic).entry.agent.state, AgentState::Retired);
        assert_eq!(topic.last().agent.state, AgentState::Retired);

        let topic = Topic::new(&[registered(Active, "new", "fixed")], []);
        let unchanged = Updated { entry: topic.last(), acknowledged: None, last_state: Some(Active) };
        assert_eq!(push(&topic), unchanged);
    }

    #[test]
    fn suspension_and_its_end_keep_the_attributes_of_a_push_between_read_and_append() {
        use AgentState::{Active, Suspended};
        for (suspension, from, to) in
            [(Suspension::Suspend, Active, Suspended), (Suspension::Resume, Suspended, Active)]
        {
            let topic =
                Topic::new(&[registered(from, "old", "")], [Others::before(&[registered(from, "new", "")])]);
            let updated =
                topic.update(|entries, _| derive_agent(suspension, KEY, "because", entries)).unwrap();
            assert_eq!(updated.entry, registered(to, "new", "because"));
            assert_eq!((updated.acknowledged.is_some(), updated.last_state), (true, Some(to)));
            assert_eq!(topic.last(), updated.entry);
        }
    }

    #[test]
    fn suspension_and_its_end_leave_an_agent_retired_that_another_writer_retires_meanwhile() {
        use AgentState::{Active, Retired, Suspended};
        let retired = registered(Retired, "new", "");
        let entry = |state| registered(state, "third", "");
        let before = || Others::before(std::slice::from_ref(&retired));
        let and_then = |state| Others { after: vec![entry(state)], ..before() };
        for (suspension, first, others, states) in [
            (Suspension::Resume, Suspended, before(), vec![Suspended, Retired, Active, Retired]),
            (Suspension::Suspend, Active, before(), vec![Active, Retired, Suspended, Retired]),
            // Another writer derives its entry from the one that replaced the retirement, or retires the agent itself.
            (
                Suspension::Resume,
                Suspended,
                and_then(Suspended),
                vec![Suspended, Retired, Active, Suspended, Retired],
            ),
            (Suspension::Resume, Suspended, and_then(Retired), vec![Suspended, Retired, Active, Retired]),
            (
                Suspension::Suspend,
                Active,
                Others::after(std::slice::from_ref(&retired)),
                vec![Active, Suspended, Retired],
            ),
        ] {
            let topic = Topic::new(&[registered(first, "old", "")], [others]);
            let error = topic.change(suspension).unwrap_err().to_string();
            assert!(error.contains("found a retired one, which stays retired"), "{error}");
            assert_eq!(topic.states(), states);
        }
        let topic = Topic::new(&[registered(Suspended, "old", "")], [before()]);
        topic.change(Suspension::Resume).unwrap_err();
        assert_eq!(topic.last(), retired);
    }

    #[test]
    fn restored_entry_is_the_last_readable_one_of_others_and_never_active() {
        use AgentState::{Active, Retired, Suspended};
        let entry = |offset, state: Option<AgentState>| LoggedEntry {
            offset,
            entry: state.map(|state| registered(state, "old", "")).ok_or_else(|| "a later version".into()),
        };
        for (states, own, restored) in [
            (vec![Some(Suspended), None, Some(Active)], vec![2], Some(Suspended)),
            (vec![Some(Active), None, Some(Suspended)], vec![2], None),
            (vec![Some(Active), Some(Retired), Some(Active)], vec![2], Some(Retired)),
            (vec![Some(Active), Some(Retired)], vec![], None),
            (vec![None, Some(Active)], vec![1], None),
        ] {
            let entries: Vec<_> = (0..).zip(&states).map(|(offset, state)| entry(offset, *state)).collect();
            let of_others = entries_of_others(&entries, &own);
            let replaced = replaced_entry(&entries, &own, &of_others);
            assert_eq!(replaced.map(|replaced| replaced.agent.state), restored, "{states:?}");
        }
    }

    #[test]
    fn suspension_holds_after_a_push_that_ends_before_it_suspends_again() {
        use AgentState::{Active, Suspended};
        let overtaken = || Others::after(&[registered(Active, "new", "")]);
        let topic = Topic::new(&[registered(Active, "old", "")], [overtaken()]);
        topic.change(Suspension::Suspend).unwrap().unwrap();
        assert_eq!(topic.states(), [Active, Suspended, Active, Suspended]);
        assert_eq!(topic.last(), registered(Suspended, "new", "because"));

        let topic = Topic::new(&[registered(Active, "old", "")], (0..20).map(|_| overtaken()));
        let error = topic.change(Suspension::Suspend).unwrap_err().to_string();
        assert_eq!(
            error,
            "agent `acme/clerk`: expected state `suspended` in its last entry, found `active` of another command; wait until \
             that ends, check the agent with `agentgov registry list`, and run the command again"
        );
        assert_eq!(topic.states().len(), 1 + 2 * MAX_ROUNDS);
    }

    #[test]
    fn resumption_fails_if_another_writer_ends_it_and_is_not_repeated() {
        use AgentState::{Active, Retired, Suspended};
        let retired = registered(Retired, "new", "");
        for after in [vec![retired.clone()], vec![retired, registered(Suspended, "new", "why")]] {
            let topic = Topic::new(&[registered(Suspended, "old", "why")], [Others::after(&after)]);
            let error = topic.change(Suspension::Resume).unwrap_err();
            assert!(matches!(error, Error::Overtaken { .. }), "{error}");
            assert_eq!(topic.last(), *after.last().unwrap());
        }
        let again = Others::after(&[registered(Suspended, "new", "why")]);
        let topic = Topic::new(&[registered(Suspended, "old", "why")], [again]);
        let error = topic.change(Suspension::Resume).unwrap_err().to_string();
        assert!(
            error.contains("expected state `active` in its last entry, found `suspended` of another command"),
            "{error}"
        );
        assert_eq!(topic.states(), [Suspended, Active, Suspended]);
        topic.change(Suspension::Resume).unwrap().unwrap();
        assert_eq!(topic.last(), registered(Active, "new", "because"));
        assert_eq!(topic.change(Suspension::Resume).unwrap(), None);
    }

    #[test]
    fn writer_that_others_overtake_each_time_is_an_error() {
        let others = (0..20).map(|n| Others::before(&[registered(AgentState::Active, &n.to_string(), "")]));
        let topic = Topic::new(&[registered(AgentState::Active, "old", "")], others);
        let error = topic
            .update(|entries, _| derive_agent(Suspension::Suspend, KEY, "because", entries))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "topic agents: expected to append without entries of others in between, found others in each of 8 attempts; wait until \
             they end, and run the command again"
        );
    }
}
