//! One attempt at a call, and whether there is to be another.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tonic::{Code, Status, body::Body};

use super::{
    breaker::Verdict,
    endpoint::Ticket,
    response::{self, Received},
};
use crate::method::Method;

/// The first pause before another attempt. It doubles from time to time, up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest time that a server may ask to wait before another attempt. Whoever called decides on longer ones.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// The body of a request.
pub(crate) enum Outgoing {
    /// All of it: it can be sent again.
    Whole(Bytes),
    /// A stream, until it is sent.
    Once(Option<Body>),
}

impl Outgoing {
    /// What to send. `None`: it was sent, and is not there any more.
    pub(crate) fn take(&mut self) -> Option<Body> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Some(Body::empty()),
            Self::Whole(bytes) => Some(Body::new(Full::new(bytes.clone()))),
            Self::Once(body) => body.take(),
        }
    }

    /// Takes back what was not sent.
    fn put_back(&mut self, body: Body) {
        if let Self::Once(place) = self {
            *place = Some(body);
        }
    }

    /// Whether there is something to send.
    fn is_there(&self) -> bool {
        !matches!(self, Self::Once(None))
    }
}

/// What an attempt came to.
pub(crate) enum Outcome {
    /// An answer for the caller, whatever it is.
    Answer(Box<Response<Received>>),
    /// A failure, and what the caller is told if it is the last.
    Failed(Failure, Status),
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There was no connection.
    NotConnected,
    /// The call did not leave, or the server did not take it.
    NotTaken,
    /// It broke off. The server may have carried it out.
    Lost,
    /// The server says that it can't now. It may have begun.
    Unavailable(Option<Duration>),
}

impl Failure {
    /// For metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::NotTaken => "not_taken",
            Self::Lost => "lost",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Makes the attempt.
pub(crate) async fn attempt(
    upstream: &str,
    mut ticket: Ticket,
    head: http::request::Parts,
    body: &mut Outgoing,
    method: Option<&Method>,
) -> Outcome {
    let mut place = match ticket.endpoint().place().await {
        Ok(place) => place,
        Err(error) => {
            ticket.tell(Verdict::Unreachable, &error.to_string());
            return Outcome::Failed(Failure::NotConnected, response::unreachable(upstream));
        }
    };
    let Some(outgoing) = body.take() else {
        return Outcome::Failed(Failure::Lost, response::unreachable(upstream));
    };
    let request = Request::from_parts(head, outgoing);
    let response = match place.connection().sender.try_send_request(request).await {
        Ok(response) => response,
        Err(mut error) => {
            if let Some(request) = error.take_message() {
                body.put_back(request.into_body());
                return Outcome::Failed(Failure::NotTaken, response::unreachable(upstream));
            }
            let error = error.into_error();
            if response::was_not_taken(&error) {
                return Outcome::Failed(Failure::NotTaken, response::unreachable(upstream));
            }
            ticket.tell(Verdict::Bad, "a call broke off");
            return Outcome::Failed(Failure::Lost, response::lost(upstream, &error));
        }
    };
    if let Some(status) = response::status_of(response.status(), response.headers()) {
        if status.code() == Code::Unavailable {
            return unavailable(&mut ticket, status);
        }
        ticket.tell(Verdict::Good, "");
        let response = response.map(|body| Received::new(upstream.to_owned(), body, place, ticket));
        return Outcome::Answer(Box::new(response));
    }
    let mut response = response.map(|body| Received::new(upstream.to_owned(), body, place, ticket));
    // A unary call is answered by its first message; until then it can still fail as a whole.
    if method.is_some_and(|method| !method.returns_stream) {
        match response.body_mut().peek().await {
            Err(status) => return Outcome::Failed(Failure::Lost, status),
            Ok(Some(status)) if status.code() == Code::Unavailable => {
                return Outcome::Failed(Failure::Unavailable(response::delay_of(&status)), status);
            }
            Ok(_) => {}
        }
    }
    if let Some(ticket) = response.body_mut().ticket() {
        ticket.tell(Verdict::Good, "");
    }
    Outcome::Answer(Box::new(response))
}

fn unavailable(ticket: &mut Ticket, status: Status) -> Outcome {
    ticket.tell(Verdict::Bad, "it says that it is unavailable");
    Outcome::Failed(Failure::Unavailable(response::delay_of(&status)), status)
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another server at once. It costs nobody anything: nothing reached the one before.
    Elsewhere,
    /// Another attempt after this time, if the budget allows.
    Again(Duration),
    /// The caller is told.
    GiveUp,
}

/// What is known when an attempt has failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation {
    /// The call may be made twice.
    pub(crate) is_repeatable: bool,
    /// There is a server that has not been tried.
    pub(crate) has_other: bool,
    /// Attempts that count, this one included.
    pub(crate) made: u32,
    /// The most attempts.
    pub(crate) most: u32,
}

/// Decides. `jitter` is between 0 and 1.
pub(crate) fn next(failure: Failure, body: &Outgoing, situation: Situation, jitter: f64) -> Next {
    let Situation { is_repeatable, has_other, made, most } = situation;
    if !body.is_there() {
        return Next::GiveUp;
    }
    if failure == Failure::NotConnected && has_other {
        return Next::Elsewhere;
    }
    let is_safe = matches!(failure, Failure::NotConnected | Failure::NotTaken) || is_repeatable;
    if !is_safe || made >= most {
        return Next::GiveUp;
    }
    let longest = PAUSE.saturating_mul(2u32.saturating_pow(made.saturating_sub(1))).min(LONGEST_PAUSE);
    let pause = longest.mul_f64(0.5 + jitter / 2.0);
    match failure {
        Failure::Unavailable(Some(delay)) if delay > LONGEST_DELAY => Next::GiveUp,
        Failure::Unavailable(Some(delay)) => Next::Again(delay.max(pause)),
        // Another server need not be spared for what this one did.
        Failure::Lost | Failure::NotTaken if has_other => Next::Again(Duration::ZERO),
        _ => Next::Again(pause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Situation = Situation { is_repeatable: false, has_other: false, made: 1, most: 3 };

    fn whole() -> Outgoing {
        Outgoing::Whole(Bytes::from_static(b"x"))
    }

    #[test]
    fn what_never_reached_a_server_is_made_again_whatever_it_is() {
        let elsewhere = Situation { has_other: true, ..FIRST };
        assert_eq!(next(Failure::NotConnected, &whole(), elsewhere, 0.0), Next::Elsewhere);
        assert_eq!(next(Failure::NotTaken, &whole(), elsewhere, 0.0), Next::Again(Duration::ZERO));
        assert_eq!(next(Failure::NotConnected, &whole(), FIRST, 1.0), Next::Again(PAUSE));
        assert_eq!(next(Failure::NotTaken, &whole(), FIRST, 0.0), Next::Again(PAUSE / 2));
        assert_eq!(next(Failure::NotConnected, &Outgoing::Once(Some(Body::empty())), FIRST, 1.0), Next::Again(PAUSE));
        assert_eq!(next(Failure::NotTaken, &Outgoing::Once(None), FIRST, 1.0), Next::GiveUp);
    }

    #[test]
    fn what_may_have_been_carried_out_is_made_again_only_where_that_is_harmless() {
        for failure in [Failure::Lost, Failure::Unavailable(None)] {
            assert_eq!(next(failure, &whole(), Situation { has_other: true, ..FIRST }, 0.0), Next::GiveUp);
            let harmless = Situation { is_repeatable: true, ..FIRST };
            assert_eq!(next(failure, &whole(), harmless, 1.0), Next::Again(PAUSE));
            assert_eq!(next(failure, &whole(), Situation { made: 3, ..harmless }, 1.0), Next::GiveUp);
            assert_eq!(next(failure, &whole(), Situation { made: 2, ..harmless }, 1.0), Next::Again(PAUSE * 2));
        }
    }

    #[test]
    fn a_server_that_says_when_to_come_again_is_heard() {
        let harmless = Situation { is_repeatable: true, has_other: true, ..FIRST };
        let after = |seconds| next(Failure::Unavailable(Some(Duration::from_secs(seconds))), &whole(), harmless, 0.0);
        assert_eq!(after(2), Next::Again(Duration::from_secs(2)));
        assert_eq!(after(60), Next::GiveUp);
    }
}
