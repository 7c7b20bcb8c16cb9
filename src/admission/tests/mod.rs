//! The interlock's sequences, one file a subject. F-n, R-n and B-n in a name are the runs that
//! found the case.
mod break_glass;
mod create;
mod enrol;
mod generated;
mod hold;
mod keys;
mod paused;
mod properties;
mod replicas;
mod request;
mod service;
