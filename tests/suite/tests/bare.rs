//! All end-to-end cases in memory without a runtime: the driver is polled by hand beside the case.

use puka_test_suite::Bare;

puka_test_suite::tests!(Bare, in_memory);
puka_test_suite::tests!(Bare, faults);
