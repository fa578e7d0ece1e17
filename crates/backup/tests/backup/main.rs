//! Each engine against its real server: load, back up while somebody writes, lose everything, restore,
//! compare; and everything that can go wrong on the way.
#![expect(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod faults;
mod files;
mod log;
mod managed;
mod mariadb;
mod mysql;
mod platform;
mod postgres;
mod redis;
mod sqlite;
mod stalls;
mod stores;
