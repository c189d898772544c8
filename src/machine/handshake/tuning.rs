//! Negotiating limits (`connection.tune`, RabbitMQ's heartbeats guide).

use crate::error::Error;
use crate::options::Limits;
use crate::protocol::frame::FRAME_MIN_SIZE;
use crate::protocol::method::connection::{Tune, TuneOk};

/// The limit on channels if neither side sets one: RabbitMQ's default.
const DEFAULT_CHANNEL_MAX: u16 = 2047;

/// The limit on frame sizes if neither side sets one: RabbitMQ's default.
const DEFAULT_FRAME_MAX: u32 = 131_072;

/// The largest frame in bytes to which a server can raise the limit.
const FRAME_CEILING: u32 = 16 << 20;

/// Returns the reply to the server's proposal `tune`: the lower limit of both sides. `wish` are the
/// limits of the options.
///
/// "If the client specifies a channel max that is higher than the value provided by the server, the
/// server MUST close the connection without attempting a negotiated close" (1.4.2.6), and the same
/// is said of the frame max. RabbitMQ also closes the transport if the client answers a limit with
/// 0. For the heartbeat, 0 means that a side does not ask for one.
///
/// # Errors
/// [`Error::BadTuning`] if the frame max is too small.
pub(crate) fn negotiate(tune: Tune, wish: &Limits) -> Result<TuneOk, Error> {
    // "the minimum negotiated value for frame-max is also frame-min-size" (1.4.2.5).
    if tune.frame_max != 0 && tune.frame_max < FRAME_MIN_SIZE {
        return Err(Error::BadTuning {
            what: "frame_max",
            value: tune.frame_max,
        });
    }
    Ok(TuneOk {
        channel_max: lower(tune.channel_max, wish.channel_max, DEFAULT_CHANNEL_MAX),
        // Without a limit of the user, the server's alone would allow frames of any size.
        frame_max: lower(
            tune.frame_max.min(FRAME_CEILING),
            wish.frame_max,
            DEFAULT_FRAME_MAX,
        ),
        heartbeat: lower(tune.heartbeat, wish.heartbeat, 0),
    })
}

/// Returns the lower of two limits, where 0 means that there is none.
fn lower<T: Ord + Default + Copy>(one: T, other: T, neither: T) -> T {
    let none = T::default();
    match (one == none, other == none) {
        (true, true) => neither,
        (true, false) => other,
        (false, true) => one,
        (false, false) => one.min(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    fn negotiated(server: (u16, u32, u16), wish: (u16, u32, u16)) -> (u16, u32, u16) {
        let options = Options::default()
            .channel_max(wish.0)
            .frame_max(wish.1)
            .heartbeat(wish.2);
        let tune = Tune {
            channel_max: server.0,
            frame_max: server.1,
            heartbeat: server.2,
        };
        let tune_ok = negotiate(tune, &options.limits).unwrap();
        (tune_ok.channel_max, tune_ok.frame_max, tune_ok.heartbeat)
    }

    #[test]
    fn e22_lower_limit_wins_and_zero_is_unlimited() {
        assert_eq!(
            negotiated((2047, 131_072, 60), (100, 8192, 10)),
            (100, 8192, 10)
        );
        assert_eq!(negotiated((10, 4096, 5), (100, 8192, 10)), (10, 4096, 5));
        assert_eq!(negotiated((0, 0, 0), (100, 8192, 10)), (100, 8192, 10));
        assert_eq!(
            negotiated((2047, 131_072, 60), (0, 0, 0)),
            (2047, 131_072, 60)
        );
    }

    #[test]
    fn a08_extreme_proposals_stay_within_our_limits() {
        assert_eq!(negotiated((0, 0, 0), (0, 0, 0)), (2047, 131_072, 0));
        assert_eq!(
            negotiated((0xFFFF, 0x8000_0000, 0xFFFF), (2047, 131_072, 60)),
            (2047, 131_072, 60)
        );
        assert_eq!(
            negotiated((0xFFFF, 0xFFFF_FFFF, 0), (2047, 131_072, 60)),
            (2047, 131_072, 60)
        );
    }

    #[test]
    fn a07_frame_max_below_the_floor_is_refused() {
        for frame_max in [1, 7, 8, 9, 4095] {
            let tune = Tune {
                channel_max: 0,
                frame_max,
                heartbeat: 0,
            };
            let error = negotiate(tune, &Options::default().limits).unwrap_err();
            assert!(
                matches!(error, Error::BadTuning { value, .. } if value == frame_max),
                "{error}"
            );
        }
    }
}
