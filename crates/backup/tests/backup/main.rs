//! Each engine against its real server: load, back up while somebody writes, lose everything, restore,
//! compare; and everything that can go wrong on the way.
#![expect(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod faults;
mod files;
mod log;
mod mariadb;
mod platform;
mod postgres;
mod redis;
mod sqlite;
mod stores;
