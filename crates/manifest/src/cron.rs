//! Cron expressions: minute, hour, day of the month, month, day of the week.
//!
//! As POSIX and vixie-cron read them: lists, ranges, steps, names of months and days, 7 for Sunday; where
//! both days are restricted, either of them is enough. Invariant: what was parsed matches some minute of
//! some year (30 February is refused). Not here: time zones.

use serde::{Deserialize, Serialize};

/// A parsed expression; each field is a set of bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cron {
    /// As it was written.
    pub text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the day of the month, and the day of the week, were restricted.
    restricted: (bool, bool),
}

/// The day of the week counts from Sunday.
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
/// Days of each month, February's with the leap day.
const DAYS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Cron {
    /// Reads one; the error says which field is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!(
                "a cron expression has five fields (minute hour day month weekday), this has {}",
                fields.len()
            ));
        };
        let mut week =
            field(weekdays, 0..=7, &WEEKDAYS, 0).map_err(|error| named("weekday", &error))?;
        week |= (week >> 7) & 1;
        let cron = Self {
            text: fields.join(" "),
            minutes: field(minutes, 0..=59, &[], 0).map_err(|error| named("minute", &error))?,
            hours: field(hours, 0..=23, &[], 0).map_err(|error| named("hour", &error))?,
            days: field(days, 1..=31, &[], 0).map_err(|error| named("day", &error))?,
            months: field(months, 1..=12, &MONTHS, 1).map_err(|error| named("month", &error))?,
            weekdays: week & 0x7f,
            restricted: (!days.starts_with('*'), !weekdays.starts_with('*')),
        };
        let possible = |(month, length): (usize, &u32)| {
            cron.months >> (month + 1) & 1 == 1
                && (1..=*length).any(|day| cron.days >> day & 1 == 1)
        };
        let by_day = DAYS.iter().enumerate().any(possible);
        if !by_day && !cron.restricted.1 {
            return Err("no month has such a day".to_owned());
        }
        Ok(cron)
    }

    /// Whether a date is one of its days: month and day from 1, weekday from Sunday 0.
    pub fn matches_day(&self, month: u8, day: u8, weekday: u8) -> bool {
        let by_day = self.days >> day & 1 == 1;
        let by_week = self.weekdays >> weekday & 1 == 1;
        let day_fits = match self.restricted {
            (true, true) => by_day || by_week,
            _ => by_day && by_week,
        };
        self.months >> month & 1 == 1 && day_fits
    }

    /// The minutes of a day on which it runs.
    pub fn minutes_of_day(&self) -> impl Iterator<Item = u16> + '_ {
        (0..24u16)
            .filter(|hour| self.hours >> hour & 1 == 1)
            .flat_map(|hour| (0..60u16).map(move |minute| (hour, minute)))
            .filter(|(_, minute)| self.minutes >> minute & 1 == 1)
            .map(|(hour, minute)| hour * 60 + minute)
    }
}

fn named(field: &str, error: &str) -> String {
    format!("the {field} is not understood: {error}")
}

/// One field as a set of bits. `names` stand for `first`, `first + 1` and so on.
fn field(
    text: &str,
    range: std::ops::RangeInclusive<u32>,
    names: &[&str],
    first: u32,
) -> Result<u64, String> {
    let mut set = 0;
    for part in text.split(',') {
        let (span, step) =
            part.split_once('/').map_or((part, None), |(span, step)| (span, Some(step)));
        let step: u32 = step.map_or(Ok(1), str::parse).map_err(|_| format!("`{part}`"))?;
        let value = |word: &str| {
            let name = names.iter().position(|name| word.eq_ignore_ascii_case(name));
            name.map(|at| at as u32 + first)
                .or_else(|| word.parse().ok())
                .filter(|number| range.contains(number))
                .ok_or_else(|| format!("`{word}` is not from {} to {}", range.start(), range.end()))
        };
        let (from, to) = match span.split_once('-') {
            _ if span == "*" => (*range.start(), *range.end()),
            Some((from, to)) => (value(from)?, value(to)?),
            None if part.contains('/') => (value(span)?, *range.end()),
            None => (value(span)?, value(span)?),
        };
        if from > to || step == 0 {
            return Err(format!("`{part}`"));
        }
        set |= (from..=to).step_by(step as usize).fold(0, |set, number| set | 1u64 << number);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_ranges_steps_and_names_are_read() {
        let cron = Cron::parse("*/20 9-17/4 * jan,DEC mon-fri").unwrap();
        assert_eq!(cron.minutes_of_day().take(4).collect::<Vec<_>>(), [540, 560, 580, 780]);
        assert!(cron.matches_day(12, 31, 1) && !cron.matches_day(12, 31, 0));
        assert!(!cron.matches_day(11, 30, 1));
        assert!(Cron::parse("0 0 * * 7").unwrap().matches_day(5, 5, 0), "7 is Sunday too");
    }

    #[test]
    fn either_day_is_enough_where_both_are_given() {
        let cron = Cron::parse("0 0 13 * fri").unwrap();
        assert!(cron.matches_day(3, 13, 2) && cron.matches_day(3, 14, 5));
        assert!(!cron.matches_day(3, 14, 2));
    }

    #[test]
    fn what_never_comes_or_is_none_is_refused_in_words() {
        let wrong = |text: &str| Cron::parse(text).unwrap_err();
        assert_eq!(wrong("0 0 30 feb *"), "no month has such a day");
        assert!(wrong("* * * *").contains("this has 4"));
        assert!(
            wrong("61 * * * *").contains("the minute is not understood: `61` is not from 0 to 59")
        );
        for text in ["*/0 * * * *", "5-1 * * * *", "a * * * *", "1,,2 * * * *"] {
            assert!(Cron::parse(text).is_err(), "{text}");
        }
    }
}
