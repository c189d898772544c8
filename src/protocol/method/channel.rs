//! Class `channel`: opening and closing channels, and flow control (spec 1.5).

class! {
    20 "channel" Method<'a>;

    /// Opens a channel.
    10 "open" Open from client -> "open-ok" {
        (out_of_band: shortstr)
    }
    /// The channel is open.
    11 "open-ok" OpenOk from server {
        (channel_id: longstr)
    }
    /// Stops or resumes the flow of content.
    20 "flow" Flow from both -> "flow-ok" {
        /// Whether content may flow.
        active: bit,
    }
    /// Confirms a `flow`.
    21 "flow-ok" FlowOk from both {
        /// Whether content flows.
        active: bit,
    }
    /// Closes the channel; its sender discards everything but `close` and `close-ok` from here on.
    40 "close" Close<'a> from both -> "close-ok" {
        /// Why, as a number.
        reply_code: short,
        /// Why, in words.
        reply_text: shortstr,
        /// The class of the method at fault, 0 when none is.
        class_id: short,
        /// The method at fault, 0 when none is.
        method_id: short,
    }
    /// The channel is closed, and its number is free.
    41 "close-ok" CloseOk from both {}
}
