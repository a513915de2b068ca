//! A handler to start from: takes one option, and greets whoever the message names.

use lope::{Failure, Handler, Host, Message, Outcome, Setup, SetupError};

/// One a thread; every call of it comes from that thread.
struct Greeter {
    host: Host,
    greeting: String,
}

impl Handler for Greeter {
    fn new(setup: &Setup) -> Result<Self, SetupError> {
        Ok(Greeter { host: setup.host(), greeting: setup.option("greeting")? })
    }

    fn handle(&mut self, message: &Message) -> Result<Outcome, Failure> {
        // Nobody will ever be able to handle these: they are dead-lettered. To have a message come
        // again, return Failure::retry(), or any error with `?`.
        if message.body().is_empty() {
            return Err(Failure::reject("an empty body: nobody to greet"));
        }
        let name = message.body_text().map_err(|error| Failure::reject(error.to_string()))?;
        self.host.info(&format!("{}, {}!", self.greeting, name));
        Ok(Outcome::Ack)
    }
}

lope::plugin! {
    name: "@NAME@",
    version: env!("CARGO_PKG_VERSION"),
    description: "greets whoever the message names",
    options: [required("greeting", Text, "the word to greet with")],
    handler: Greeter,
}
