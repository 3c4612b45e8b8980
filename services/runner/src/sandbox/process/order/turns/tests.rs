use std::collections::VecDeque;

use OutputStream::{Stderr as E, Stdout as O};
use proptest::prelude::*;

use super::*;

/// What was told, with a mark before what was written to standard error.
fn told(groups: &[Group]) -> String {
    let mark = |group: &Group| if group.stream == E { "!" } else { "" };
    groups.iter().map(|group| format!("{}{}", mark(group), String::from_utf8_lossy(&group.data))).collect()
}

fn turns(notes: &[OutputStream], stdout: &str, stderr: &str) -> Turns {
    let mut turns = Turns::default();
    notes.iter().for_each(|stream| turns.note(*stream));
    turns.add(O, stdout.as_bytes());
    turns.add(E, stderr.as_bytes());
    turns
}

/// What is told of this once its order can't become clearer.
fn arranged(notes: &[OutputStream], stdout: &str, stderr: &str) -> String {
    let mut turns = turns(notes, stdout, stderr);
    turns.hand_on();
    told(&turns.take())
}

#[test]
fn lines_in_turns_are_put_in_turns() {
    assert_eq!(arranged(&[O, E, O, E], "1\n3\n", "2\n4\n"), "1\n!2\n3\n!4\n");
    assert_eq!(arranged(&[E, O], "2", "1\nx"), "!1\nx2");
}

#[test]
fn several_lines_in_a_row_are_shared_out() {
    assert_eq!(arranged(&[O, E, O], "1\n2\n4\n5\n", "3\n"), "1\n2\n!3\n4\n5\n");
}

#[test]
fn notes_that_come_too_late_or_too_early_do_no_harm() {
    // Written, not noted yet.
    assert_eq!(arranged(&[O], "1\n", "2\n"), "1\n!2\n");
    assert_eq!(arranged(&[], "1\n", "2\n"), "1\n!2\n");
    // Noted, read before.
    assert_eq!(arranged(&[E, O, E], "1\n", "2\n"), "1\n!2\n");
    assert_eq!(arranged(&[E, O], "1\n", ""), "1\n");
}

#[test]
fn a_line_that_may_not_be_noted_yet_is_held_until_the_next_note() {
    for (next, expected) in [(O, "1\n!2\n3\n"), (E, "1\n3\n!2\n")] {
        let mut turns = turns(&[O, E], "1\n3\n", "2\n");
        turns.settle();
        assert_eq!((turns.held(), turns.take()), (6, vec![]));
        turns.note(next);
        turns.settle();
        assert_eq!(told(&turns.take()), expected);
    }
}

#[test]
fn what_is_certain_is_not_held() {
    for (notes, stdout, stderr, expected) in [
        (&[][..], "1\n", "", "1\n"),
        (&[O], "1\n2\n", "", "1\n2\n"),
        (&[O], "1\n", "2\n", "1\n!2\n"),
        (&[E, O], "2\n3\n", "1\n", "!1\n2\n3\n"),
    ] {
        let mut turns = turns(notes, stdout, stderr);
        turns.settle();
        assert_eq!((turns.held(), told(&turns.take()).as_str()), (0, expected));
    }
}

#[test]
fn a_note_about_what_was_told_already_is_no_turn() {
    let mut turns = turns(&[O], "1\n2\n", "");
    turns.settle();
    assert_eq!(told(&turns.take()), "1\n2\n");
    // The note about the second line, the third, and the fourth without its note.
    turns.note(O);
    turns.note(E);
    turns.add(E, b"3\n");
    turns.add(O, b"4\n");
    turns.settle();
    assert_eq!(turns.take(), []);
    turns.note(O);
    turns.settle();
    assert_eq!(told(&turns.take()), "!3\n4\n");
}

/// Two pipes, the queue of notes, and a script that is about to write so.
#[derive(Default)]
struct Kernel {
    pipes: [Vec<u8>; 2],
    notes: Vec<OutputStream>,
    /// With and without bytes: a write, and the note about it.
    steps: VecDeque<(OutputStream, Option<Vec<u8>>)>,
    written: Vec<Group>,
}

impl Kernel {
    fn new(writes: Vec<(OutputStream, String)>) -> Kernel {
        let steps = writes.into_iter().flat_map(|(stream, text)| [(stream, Some(text.into_bytes())), (stream, None)]);
        Kernel { steps: steps.collect(), ..Kernel::default() }
    }

    fn step(&mut self) {
        match self.steps.pop_front() {
            Some((stream, Some(data))) => {
                self.pipes[stream as usize].extend_from_slice(&data);
                self.written.push(Group { stream, data });
            }
            Some((stream, None)) if self.notes.last() != Some(&stream) => self.notes.push(stream),
            _ => {}
        }
    }

    /// As the supervisor does it, while the script goes on by so many steps after each of the reader's.
    fn read(&mut self, turns: &mut Turns, pace: &mut impl Iterator<Item = usize>) {
        let mut go_on = |kernel: &mut Kernel| (0..pace.next().unwrap_or(0)).for_each(|_| kernel.step());
        self.read_notes(turns);
        loop {
            for stream in STREAMS {
                go_on(self);
                turns.add(stream, &std::mem::take(&mut self.pipes[stream as usize]));
            }
            go_on(self);
            if !self.read_notes(turns) {
                return turns.settle();
            }
        }
    }

    fn read_notes(&mut self, turns: &mut Turns) -> bool {
        self.notes.iter().for_each(|stream| turns.note(*stream));
        !std::mem::take(&mut self.notes).is_empty()
    }
}

/// What is told of these writes when it is read at this pace, and what was written.
fn run(writes: Vec<(OutputStream, String)>, pace: Vec<usize>, mut late: Vec<bool>) -> [Vec<Group>; 2] {
    let (mut kernel, mut turns, mut groups) = (Kernel::new(writes), Turns::default(), Vec::new());
    let mut pace = pace.into_iter().chain(std::iter::repeat([0, 0, 0, 1]).flatten());
    while !kernel.steps.is_empty() {
        kernel.read(&mut turns, &mut pace);
        if late.pop().unwrap_or(false) {
            turns.hand_on();
        }
        groups.extend(turns.take());
    }
    kernel.read(&mut turns, &mut std::iter::empty());
    turns.hand_on();
    groups.extend(turns.take());
    [groups, kernel.written]
}

fn of_stream(groups: &[Group], stream: OutputStream) -> Vec<u8> {
    groups.iter().filter(|group| group.stream == stream).flat_map(|group| group.data.clone()).collect()
}

fn paces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![3 => Just(0), 3 => Just(1), 2 => 2..9_usize], 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lines_in_turns_are_told_in_turns_at_any_pace(count in 0..60_usize, pace in paces()) {
        let writes = (0..count).map(|number| ([O, E][number % 2], format!("{number}\n"))).collect();
        let [groups, written] = run(writes, pace, Vec::new());
        prop_assert_eq!(groups, written);
    }

    #[test]
    fn nothing_is_lost_or_moved_within_a_stream(
        writes in prop::collection::vec((prop_oneof![Just(O), Just(E)], "[ab\n]{1,6}"), 0..60),
        pace in paces(),
        late in prop::collection::vec(any::<bool>(), 0..60),
    ) {
        let [groups, written] = run(writes, pace, late);
        for stream in STREAMS {
            prop_assert_eq!(of_stream(&groups, stream), of_stream(&written, stream));
        }
    }
}

#[test]
fn what_is_in_order_and_not_taken_needs_its_room_too() {
    let mut turns = turns(&[O, E], "1\n3\n", "2\n");
    turns.settle();
    assert_eq!((turns.held(), turns.waiting()), (6, 6), "it is in doubt");
    // The note tells that all of it was noted.
    turns.note(E);
    assert_eq!((turns.held(), turns.waiting()), (0, 6));
    turns.add(O, b"4\n");
    assert_eq!(turns.waiting(), 8);
    turns.take();
    assert_eq!(turns.waiting(), 2);
}
