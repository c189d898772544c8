//! Class `channel`: opening and closing channels, and flow control (spec 1.5).

class! {
    20 "channel" Method<'a>;

    /// Opens a channel.
    10 "open" Open from client -> "open-ok" {
        (out_of_band: shortstr)
    }
    /// Confirms that the channel is open.
    11 "open-ok" OpenOk from server {
        (channel_id: longstr)
    }
    /// Stops or resumes the flow of content.
    20 "flow" Flow from both -> "flow-ok" {
        /// Whether content may flow.
        active: bit,
    }
    /// Confirms `flow`.
    21 "flow-ok" FlowOk from both {
        /// Whether content flows.
        active: bit,
    }
    /// Closes the channel. Spec, `channel.close`: "After sending this method, any received methods
    /// except Close and Close-OK MUST be discarded".
    40 "close" Close<'a> from both -> "close-ok" {
        /// The reply code.
        reply_code: short,
        /// The reply text.
        reply_text: shortstr,
        /// The class of the method that caused the close, or 0.
        class_id: short,
        /// The method that caused the close, or 0.
        method_id: short,
    }
    /// Confirms that the channel is closed and its number can be reused.
    41 "close-ok" CloseOk from both {}
}
