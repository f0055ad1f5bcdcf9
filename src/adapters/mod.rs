//! Adapters: engines that know nothing of `rewound`, protected from outside.
//!
//! Each stands behind a feature of its own and uses what any host can use, no more: [`Node`](crate::Node),
//! [`Writer`](crate::Writer), [`Batch`](crate::Batch), [`PageSource`](crate::PageSource), [`PageSink`](crate::PageSink).

#[cfg(feature = "sqlite")]
pub mod sqlite;
