//! Where the host's calls come in. Nothing here is needed to write a handler: [`plugin!`] uses it.
//!
//! [`plugin!`]: crate::plugin!
#![allow(missing_docs)]

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};

use crate::abi::*;
use crate::error::{Failure, SetupError};
use crate::host::{Setup, Shared};
use crate::message::{Batch, Message};
use crate::{BatchHandler, Flush, FlushReason, Handler};

struct Instance<H> {
    handler: H,
    shared: Arc<Shared>,
}

thread_local! {
    /// Of the call that this thread is in.
    static HOST: Cell<*const lope_host> = const { Cell::new(ptr::null()) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

unsafe fn write_line(host: *const lope_host, level: i32, text: &str) {
    ((*host).log)(host, level, lope_str::of(text.as_bytes()));
}

// A panic inside of a call goes to the log of the daemon, with its place. Those of other threads go
// where they went, standard error, of which the daemon makes lines too.
fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let host = HOST.try_with(Cell::get).unwrap_or(ptr::null());
            if host.is_null() {
                return before(info);
            }
            let payload = info.payload();
            let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
                (Some(text), _) => text,
                (_, Some(text)) => text.as_str(),
                _ => "something that is no text",
            };
            let place = info.location().map_or_else(String::new, |place| format!(" at {}", place));
            let line = format!("panic{}: {}", place, text);
            unsafe { write_line(host, LOPE_LOG_ERROR, &line) };
            let _ = PANIC.try_with(|panic| *panic.borrow_mut() = line);
        }));
    });
}

/// Runs `function`; what it says when it panics.
fn guarded<R>(host: *const lope_host, function: impl FnOnce() -> R) -> Result<R, String> {
    let outer = HOST.with(|current| current.replace(host));
    let result = panic::catch_unwind(AssertUnwindSafe(function));
    HOST.with(|current| current.set(outer));
    result.map_err(|payload| {
        // What was thrown may panic when it is dropped, and then that is not dropped.
        if let Err(again) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
        match PANIC.with(|panic| panic.take()) {
            text if text.is_empty() => "the handler panicked".into(), // under another's panic hook
            text => text,
        }
    })
}

impl<H> Instance<H> {
    fn guarded<R>(
        &mut self,
        function: impl FnOnce(&mut H, &Arc<Shared>) -> R,
    ) -> Result<R, String> {
        let Instance { handler, shared } = self;
        guarded(unsafe { shared.in_call() }, || function(handler, shared))
    }
}

pub unsafe fn create<H: Handler>(
    host: *const lope_host,
    options: *const lope_option,
    handler: *mut *mut lope_handler,
) -> lope_status {
    install_panic_hook();
    let shared = Shared::new(host);
    let made = guarded(host, || H::new(&Setup::new(&shared, &*host, options)));
    let (status, reason) = match made {
        Ok(Ok(made)) => {
            *handler = Box::into_raw(Box::new(Instance { handler: made, shared })).cast();
            return LOPE_OK;
        }
        Ok(Err(SetupError::Invalid(reason))) => (LOPE_E_INVALID, reason),
        Ok(Err(SetupError::Failed(reason))) => (LOPE_E_FAILED, reason),
        Err(panic) => (LOPE_E_FAILED, panic),
    };
    // Others may have a Host of it.
    shared.close();
    ((*host).explain)(host, ptr::null(), lope_str::of(reason.as_bytes()));
    status
}

pub unsafe extern "C" fn destroy<H: Handler>(handler: *mut lope_handler) {
    let instance = Box::from_raw(handler.cast::<Instance<H>>());
    let shared = instance.shared;
    shared.handed_back.store(true, Ordering::Relaxed);
    let handler = instance.handler;
    // A panic is in the log, and there is nothing left that could go wrong.
    let _ = guarded(shared.in_call(), move || drop(handler));
    shared.close();
}

pub unsafe extern "C" fn handle<H: Handler>(
    handler: *mut lope_handler,
    raw: *const lope_message,
) -> lope_outcome {
    let instance = &mut *handler.cast::<Instance<H>>();
    let held = Cell::new(false);
    let said = instance
        .guarded(|handler, shared| handler.handle(&Message::of_call(shared, &*raw, &held)))
        .unwrap_or_else(|panic| Err(Failure::retry(panic)));
    Message::of_call(&instance.shared, &*raw, &held).conclude(said)
}

pub unsafe extern "C" fn handle_batch<H: BatchHandler>(
    handler: *mut lope_handler,
    raw: *const lope_batch,
    outcomes: *mut lope_outcome,
) {
    let instance = &mut *handler.cast::<Instance<H>>();
    let count = (*raw).count as usize;
    let messages = std::slice::from_raw_parts((*raw).messages, count);
    let outcomes = std::slice::from_raw_parts_mut(outcomes, count);
    let outcomes = Cell::from_mut(outcomes).as_slice_of_cells();
    let shared = Arc::clone(&instance.shared);
    let batch = Batch::of_call(&shared, messages, outcomes);
    let result = instance.guarded(|handler, _| handler.handle_batch(&batch));
    batch.conclude(result.err().map(Failure::retry));
}

pub unsafe extern "C" fn flush<H: Flush>(handler: *mut lope_handler, reason: u32) -> lope_status {
    let instance = &mut *handler.cast::<Instance<H>>();
    let reason = match reason {
        LOPE_FLUSH_INTERVAL => FlushReason::Interval,
        LOPE_FLUSH_WINDOW_FULL => FlushReason::WindowFull,
        LOPE_FLUSH_DRAIN => FlushReason::Drain,
        _ => return LOPE_E_INVALID,
    };
    let result = instance.guarded(|handler, _| handler.flush(reason));
    if reason == FlushReason::Drain {
        instance.shared.handed_back.store(true, Ordering::Relaxed);
    }
    match result {
        Ok(Ok(())) => LOPE_OK,
        Ok(Err(failure)) => {
            write_line(instance.shared.in_call(), LOPE_LOG_ERROR, &failure.reason);
            LOPE_E_FAILED
        }
        Err(_) => LOPE_E_FAILED, // the panic is in the log
    }
}

type HandleBatch = unsafe extern "C" fn(*mut lope_handler, *const lope_batch, *mut lope_outcome);
type FlushFunction = unsafe extern "C" fn(*mut lope_handler, u32) -> lope_status;

/// What a handler has besides handle(). Its own constants, where a handler has it, come before those
/// of the trait, so that the table has NULL for what is not there.
pub struct Has<H>(PhantomData<H>);

pub trait Lacks {
    const HANDLE_BATCH: Option<HandleBatch> = None;
    const FLUSH: Option<FlushFunction> = None;
}
impl<H> Lacks for Has<H> {}
impl<H: BatchHandler> Has<H> {
    pub const HANDLE_BATCH: Option<HandleBatch> = Some(handle_batch::<H>);
}
impl<H: Flush> Has<H> {
    pub const FLUSH: Option<FlushFunction> = Some(flush::<H>);
}
