//! The jobs that wait for the thread that writes, and which of them the next commit takes.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use super::writer::Job;

/// How many jobs one commit takes at most.
const JOBS_PER_COMMIT: usize = 512;

/// A commit with so many jobs has one of the background too: it makes no difference to those.
const MANY: usize = 8;

/// How long a commit goes on taking jobs of the background, with nothing else to do.
const BACKGROUND: Duration = Duration::from_millis(5);

/// The same while there are other jobs too, which come at once and then wait for no more than this.
const BACKGROUND_BESIDE: Duration = Duration::from_micros(200);

/// For how long after a live job the background is careful.
const CAREFUL: Duration = Duration::from_millis(50);

/// What a job is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody waits for it.
    Live,
    /// As live ones, but no sign that there is anything live: it comes with the work of the background too.
    Upkeep,
    /// It is in no hurry.
    Background,
}

/// A job, and what it is.
pub(super) type Sent = (Box<dyn Job>, Kind);

/// When a live job came last, whoever runs it.
#[derive(Debug, Default)]
pub(super) struct Hurry(Mutex<Option<Instant>>);

impl Hurry {
    /// There is a live job.
    pub(super) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_recent(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < CAREFUL)
    }
}

/// The jobs that wait.
pub(super) struct Queue {
    sent: mpsc::Receiver<Sent>,
    jobs: VecDeque<Box<dyn Job>>,
    background: VecDeque<Box<dyn Job>>,
    hurry: Arc<Hurry>,
    /// How many jobs of the commit at hand are of the background.
    of_background: usize,
    /// Whether a commit took no job of the background though there was one. The next one has to, so that those come to their
    /// end beside any load.
    passed_over: bool,
}

impl Queue {
    pub(super) fn new(sent: mpsc::Receiver<Sent>, hurry: Arc<Hurry>) -> Self {
        let (jobs, background) = (VecDeque::new(), VecDeque::new());
        Self { sent, jobs, background, hurry, of_background: 0, passed_over: false }
    }

    /// Waits until there is a job. Returns whether there is: otherwise there will be none any more.
    pub(super) fn wait(&mut self) -> bool {
        self.take();
        if self.jobs.is_empty() && self.background.is_empty() {
            match self.sent.recv() {
                Ok(sent) => self.add(sent),
                Err(mpsc::RecvError) => return false,
            }
        }
        true
    }

    /// The next job for a commit that began at `began` and has `count` jobs. `None`: it has enough.
    pub(super) fn next(&mut self, began: Instant, count: usize) -> Option<Box<dyn Job>> {
        self.take();
        if count >= JOBS_PER_COMMIT {
            return None;
        }
        if count == 0 {
            self.of_background = 0;
        }
        let has_none = self.of_background == 0 && !self.background.is_empty();
        let others = count - self.of_background.min(count);
        let owes_one = has_none && (self.passed_over || others >= MANY);
        let is_last = count + 1 == JOBS_PER_COMMIT;
        if !(is_last && owes_one)
            && let Some(job) = self.jobs.pop_front()
        {
            return Some(job);
        }
        if !owes_one {
            if others > 0 {
                // Those are waited for.
                self.passed_over |= has_none;
                return None;
            }
            let room = if self.hurry.is_recent() { BACKGROUND_BESIDE } else { BACKGROUND };
            if self.of_background > 0 && began.elapsed() >= room {
                return None;
            }
        }
        let job = self.background.pop_front()?;
        self.of_background += 1;
        self.passed_over = false;
        Some(job)
    }

    fn take(&mut self) {
        while let Ok(sent) = self.sent.try_recv() {
            self.add(sent);
        }
    }

    fn add(&mut self, (job, kind): Sent) {
        match kind {
            Kind::Background => return self.background.push_back(job),
            Kind::Live => self.hurry.note(),
            Kind::Upkeep => {}
        }
        self.jobs.push_back(job);
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::{
        StoreError,
        sqlite::writer::{Effects, Ran},
    };

    struct Idle;

    impl Job for Idle {
        fn run(&mut self, _: &Connection, _: &mut Effects) -> Ran {
            Ran::Whole
        }

        fn reply(self: Box<Self>, _: Result<(), StoreError>) {}
    }

    /// A queue with so many jobs of a kind, and so many of the background.
    fn queue(kind: Kind, jobs: usize, background: usize) -> Queue {
        let (send, sent) = mpsc::channel::<Sent>();
        for kind in std::iter::repeat_n(Kind::Background, background).chain(std::iter::repeat_n(kind, jobs)) {
            send.send((Box::new(Idle), kind)).unwrap();
        }
        Queue::new(sent, Arc::default())
    }

    /// How many jobs a commit takes that began so long ago: all, and those of the background.
    fn commit(queue: &mut Queue, ago: Duration) -> (usize, usize) {
        let began = Instant::now().checked_sub(ago).unwrap();
        let mut count = 0;
        while queue.next(began, count).is_some() {
            count += 1;
        }
        (count, queue.of_background)
    }

    #[test]
    fn what_is_waited_for_is_committed_without_the_background_but_not_twice_in_a_row() {
        let mut queue = queue(Kind::Live, 2, 4);
        assert!(queue.wait());
        assert_eq!(commit(&mut queue, Duration::ZERO), (2, 0));
        queue.jobs.push_back(Box::new(Idle));
        assert_eq!(commit(&mut queue, BACKGROUND * 2), (2, 1));
        queue.jobs.push_back(Box::new(Idle));
        assert_eq!(commit(&mut queue, BACKGROUND * 2), (1, 0));
        queue.jobs.extend((0..JOBS_PER_COMMIT).map(|_| Box::new(Idle) as Box<dyn Job>));
        assert_eq!(commit(&mut queue, BACKGROUND * 2), (JOBS_PER_COMMIT, 1));
        assert_eq!((queue.jobs.len(), queue.background.len()), (1, 2));
    }

    #[test]
    fn a_commit_with_many_jobs_has_one_of_the_background() {
        let mut queue = queue(Kind::Live, JOBS_PER_COMMIT + MANY, 3);
        assert_eq!(commit(&mut queue, BACKGROUND * 2), (JOBS_PER_COMMIT, 1));
        assert_eq!(commit(&mut queue, BACKGROUND * 2), (MANY + 2, 1));
        assert_eq!(commit(&mut queue, BACKGROUND * 2), (1, 1));
        assert!(!queue.wait(), "nobody can send any more");
    }

    #[test]
    fn the_background_has_small_commits_beside_live_jobs_and_large_ones_otherwise() {
        for (kind, ago, taken) in [
            (Kind::Live, BACKGROUND_BESIDE * 2, 1),
            (Kind::Upkeep, BACKGROUND_BESIDE * 2, 9),
            (Kind::Upkeep, BACKGROUND * 2, 1),
        ] {
            let mut queue = queue(kind, 1, 9);
            assert_eq!(commit(&mut queue, ago), (1, 0));
            queue.passed_over = false;
            assert_eq!(commit(&mut queue, ago), (taken, taken), "{kind:?}");
        }
    }

    #[test]
    fn a_job_that_comes_ends_the_commit_of_the_background() {
        let mut queue = queue(Kind::Live, 0, 9);
        let began = Instant::now();
        assert!(queue.next(began, 0).is_some() && queue.next(began, 1).is_some());
        queue.add((Box::new(Idle), Kind::Live));
        assert!(queue.next(began, 2).is_some() && queue.next(began, 3).is_none());
        assert_eq!((queue.jobs.len(), queue.background.len()), (0, 7));
    }
}
