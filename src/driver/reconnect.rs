//! The driver of a connection that is dialled, and dialled again after a loss.

use super::addresses::LastAddresses;
use super::dial::dial_from;
use super::poll_loop::{PollLoop, turn_without_stream};
use super::pump::{Interest, Pump, Turn};
use super::timer::Timer;
use super::{Clock, Dial, Transport};
use crate::error::{Broken, Error};
use crate::link::Link;
use crate::machine::Dialled;
use crate::options::Options;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// The stream, and its endpoint and address.
type DialResult = Result<(Transport, Dialled), Error>;

/// A future that dials, moves bytes between the transport and the connection, and dials again after
/// a loss as [`Recovery`](crate::Recovery) prescribes.
///
/// Poll it on any executor, as a [`Driver`](crate::Driver). It resolves when the connection is
/// closed for good: to `Ok` if the client closed it, otherwise to the error. Dropping it completes
/// pending requests with [`Broken::DriverDropped`].
#[must_use = "nothing is sent or received unless the driver is polled"]
pub struct DialDriver<D, C: Clock> {
    dialer: Arc<D>,
    clock: Arc<C>,
    options: Arc<Options>,
    link: Arc<Link>,
    phase: DialPhase,
    last_addresses: LastAddresses,
    timer: Timer<C>,
}

/// The phase of a [`DialDriver`].
enum DialPhase {
    /// Waits until it is time to dial.
    Waiting,
    Dialling(Pin<Box<dyn Future<Output = DialResult> + Send>>),
    Driving(Box<Pump<Transport>>),
    Finished,
}

impl<D, C: Clock> fmt::Debug for DialDriver<D, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            DialPhase::Waiting => "waiting",
            DialPhase::Dialling(_) => "dialling",
            DialPhase::Driving(_) => "driving",
            DialPhase::Finished => "finished",
        };
        f.debug_struct("DialDriver")
            .field("phase", &phase)
            .finish_non_exhaustive()
    }
}

impl<D, C> DialDriver<D, C>
where
    D: Dial + Send + Sync + 'static,
    C: Clock + Send + Sync + 'static,
    C::Sleep: Send,
{
    pub(crate) fn new(dialer: D, clock: C, options: Options, link: Arc<Link>) -> Self {
        let (dialer, clock, options) = (dialer.into(), clock.into(), options.into());
        Self {
            dialer,
            clock,
            options,
            link,
            phase: DialPhase::Waiting,
            last_addresses: LastAddresses::default(),
            timer: Timer::default(),
        }
    }

    /// Reports that dialling has failed, and resumes the panic.
    fn handle_panic(&mut self, now: Instant, panic: Box<dyn Any + Send>) -> Turn {
        self.phase = DialPhase::Waiting;
        let error = io::Error::other("the dialer panicked").into();
        self.link.handle_dial_failure(now, error);
        resume_unwind(panic)
    }
}

impl<D, C> PollLoop for DialDriver<D, C>
where
    D: Dial + Send + Sync + 'static,
    C: Clock + Send + Sync + 'static,
    C::Sleep: Send,
{
    fn now(&mut self) -> Instant {
        self.clock.now()
    }

    fn begin_poll(&mut self) {
        if let DialPhase::Driving(pump) = &mut self.phase {
            pump.begin_poll();
        }
    }

    fn should_yield(&self) -> bool {
        matches!(&self.phase, DialPhase::Driving(pump) if pump.should_yield())
    }

    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        match &mut self.phase {
            DialPhase::Driving(pump) => match pump.turn(cx, now) {
                Turn::Redial => {
                    self.phase = DialPhase::Waiting;
                    Turn::Progressed
                }
                turn => turn,
            },
            DialPhase::Dialling(dialling) => {
                match catch_unwind(AssertUnwindSafe(|| dialling.as_mut().poll(cx))) {
                    Err(panic) => self.handle_panic(now, panic),
                    Ok(Poll::Ready(Ok((transport, dialled)))) => {
                        let received = transport.received_counter();
                        self.last_addresses
                            .record_dialled(dialled.endpoint, dialled.address);
                        self.link.handle_dialled(now, dialled);
                        let mut pump = Pump::new(transport, self.link.clone());
                        pump.watch_received(received);
                        self.phase = DialPhase::Driving(pump.into());
                        Turn::Progressed
                    }
                    Ok(Poll::Ready(Err(error))) => {
                        self.link.handle_dial_failure(now, error);
                        self.phase = DialPhase::Waiting;
                        Turn::Progressed
                    }
                    Ok(Poll::Pending) => turn_without_stream(&self.link, now),
                }
            }
            DialPhase::Waiting => match self.link.with(|machine| machine.poll_dial(now)) {
                Some(wanted) => {
                    let (dialer, clock) = (self.dialer.clone(), self.clock.clone());
                    let options = self.options.clone();
                    let preferred = self.last_addresses.begin_dialling(wanted.was_open);
                    let dialling = async move {
                        dial_from(&wanted, preferred, &*dialer, &*clock, &options).await
                    };
                    self.phase = DialPhase::Dialling(Box::pin(dialling));
                    Turn::Progressed
                }
                None => turn_without_stream(&self.link, now),
            },
            DialPhase::Finished => Turn::Ended(Ok(())),
        }
    }

    fn prepare_to_wait(&mut self, cx: &mut Context<'_>, interest: Interest) -> bool {
        let Self {
            timer, clock, link, ..
        } = self;
        !timer.poll(clock, cx, interest.timeout) && link.prepare_to_sleep(cx.waker())
    }
}

impl<D, C> Future for DialDriver<D, C>
where
    D: Dial + Send + Sync + 'static,
    C: Clock + Send + Sync + 'static,
    C::Sleep: Send,
{
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = this.poll_turns(cx).into_poll(cx);
        if polled.is_ready() {
            this.phase = DialPhase::Finished;
        }
        polled
    }
}

impl<D, C: Clock> Drop for DialDriver<D, C> {
    fn drop(&mut self) {
        // A pump reports its own drop.
        if matches!(self.phase, DialPhase::Waiting | DialPhase::Dialling(_)) {
            self.link.handle_loss(Broken::DriverDropped);
        }
    }
}
