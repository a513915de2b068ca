//! A handler for the tests of the crate `lope`: each message says what to do.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lope::*;

struct Edge {
    host: Host,
    seen: Metric,
    took: Metric,
    kept: VecDeque<Held>,
}

impl Handler for Edge {
    fn new(setup: &Setup) -> Result<Self, SetupError> {
        let host = setup.host();
        if setup.option::<bool>("panic")? {
            panic!("in the middle of new()");
        }
        let name: String = setup.option("name")?;
        if name == "wrong" {
            return Err(SetupError::Invalid("a wrong name".into()));
        }
        let ratio: f64 = name.parse().unwrap_or(1.5);
        host.info(&format!(
            "made {},{},{:?},{},{}",
            name,
            setup.option::<i16>("width")?,
            setup.option_list("tags")?,
            ratio,
            setup.group()
        ));
        Ok(Edge {
            host,
            seen: setup.counter("seen", "Messages.")?,
            took: setup.duration("took", "Time.")?,
            kept: VecDeque::new(),
        })
    }

    fn handle(&mut self, message: &Message) -> Result<Outcome, Failure> {
        self.seen.record(1)?;
        let body = message.body_text()?;
        match body {
            "ack" => Ok(Outcome::Ack),
            "retry" => Err(Failure::retry("the disk is full")),
            "retry later" => Err(Failure::retry_after(Duration::from_secs(7), "later")),
            "reject" => Err(Failure::reject("not an image")),
            "error" => Err("x".parse::<i32>().unwrap_err().into()),
            "panic" => panic!("in the middle of {}", body),
            "panic with a number" => std::panic::panic_any(77),
            "metric" => {
                self.took.record_duration(Duration::from_millis(2))?;
                self.seen.record(-1).map_err(|error| Failure::reject(error.to_string()))?;
                Ok(Outcome::Ack)
            }
            "properties" => {
                let right = message.queue() == "edge"
                    && message.routing_key() == "orders.new"
                    && message.exchange().is_empty()
                    && message.attempt() == 3
                    && message.redelivered()
                    && message.persistent()
                    && message.timestamp() == Some(UNIX_EPOCH + Duration::from_secs(5))
                    && message.header("text").and_then(|value| value.as_text()).as_deref()
                        == Some("a")
                    && message.header("number") == Some(Value::Int(-3))
                    && message.header("truth") == Some(Value::Bool(true))
                    && message.header("table") == Some(Value::Other)
                    && message.header("none").is_none()
                    && message.header_at(1)?.0 == "number"
                    && message.header_at(9).is_err();
                if right {
                    Ok(Outcome::Ack)
                } else {
                    Err(Failure::reject("not as expected"))
                }
            }
            "publish" => {
                let mut order = Publication::to("orders", "sent");
                order.persistent = false;
                order.delay = Duration::from_secs(2);
                order.priority = 3;
                order.due = Some(UNIX_EPOCH + Duration::from_millis(1234));
                order.header("number", -3).header("natural", 4u8).header("truth", true);
                order.header("real", 0.5).header("twice", "a").header("twice", 2);
                order.header("time", SystemTime::UNIX_EPOCH + Duration::from_secs(9));
                order.copy_headers(message)?;
                message.publish(&order)?;
                message.reply(&Publication::new("the answer"))?;
                assert!(message.keep_alive()?);
                Ok(Outcome::Ack)
            }
            "too long" => {
                message.publish(&Publication::to("x".repeat(256), ""))?;
                Ok(Outcome::Ack)
            }
            "hold" => {
                self.kept.push_back(message.hold()?);
                assert_eq!(message.hold().unwrap_err().status, Status::Stale);
                Ok(Outcome::Hold)
            }
            "hold elsewhere" => {
                let held = message.hold()?;
                let host = self.host.clone();
                thread::spawn(move || {
                    let text = held.message().body_text().unwrap_or_default().to_uppercase();
                    let mut answer = Publication::to("answers", text);
                    answer.may_be_unroutable = true;
                    let result = held.message().publish(&answer).map_err(Failure::from);
                    if !held.settle(result) {
                        host.error("not settled");
                    }
                });
                Ok(Outcome::Hold)
            }
            "hold, and let go" => {
                message.hold()?;
                Ok(Outcome::Hold)
            }
            "hold, and panic" => {
                self.kept.push_back(message.hold()?);
                panic!("after hold()");
            }
            "hold, and fail" => {
                self.kept.push_back(message.hold()?);
                Err(Failure::reject("after hold()"))
            }
            "say hold" => Ok(Outcome::Hold),
            other => match other.strip_prefix("read ") {
                Some(file) => {
                    self.host.info("reading");
                    self.host.info(std::str::from_utf8(&std::fs::read(file)?)?);
                    Ok(Outcome::Ack)
                }
                None => Err(Failure::reject(format!("unknown: {}", other))),
            },
        }
    }
}

impl BatchHandler for Edge {
    fn handle_batch(&mut self, batch: &Batch) {
        for index in 0..batch.len() {
            let message = batch.message(index);
            match message.body_text() {
                Ok("nothing") => {}
                Ok("panic") => panic!("in a batch"),
                Ok("hold, and say nothing") => self.kept.extend(message.hold()),
                _ => batch.set(index, self.handle(&message)),
            }
        }
    }
}

impl Flush for Edge {
    fn flush(&mut self, reason: FlushReason) -> Result<(), Failure> {
        if reason == FlushReason::Drain {
            return Err(Failure::retry("cannot flush"));
        }
        while let Some(held) = self.kept.pop_front() {
            held.ack();
        }
        Ok(())
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.host.info("dropped");
    }
}

lope::plugin! {
    name: "edge",
    version: env!("CARGO_PKG_VERSION"),
    description: "for the tests",
    options: [
        required("name", Text, "any text"),
        defaulted("width", Int, "640", "an integer"),
        secret defaulted("panic", Bool, "no", "panic when made"),
        defaulted("tags.*", Text, "", "a list"),
    ],
    handler: Edge,
}
