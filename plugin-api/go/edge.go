package lope

// #include <lope/handler.h>
// #include <stdint.h>
// extern const lope_plugin lope_plugin_v1 __attribute__((weak));
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/cgo"
	"strings"
	"unsafe"
)

// One handler: what lope_handler* is the number of.
type instance struct {
	host    *Host
	handler Handler
}

func instanceOf(number C.uintptr_t) *instance { return cgo.Handle(number).Value().(*instance) }

// Runs f; a panic becomes an error, and a line in the log, with its place.
func (h *Host) guarded(f func() error) (err error) {
	done := false // recover() says nothing of panic(nil)
	defer func() {
		if reason := recover(); !done {
			err = errors.New(panicText(reason))
			h.Error(err.Error())
		}
	}()
	err = f()
	done = true
	return err
}

// What an error of the handler's says. Its methods are the handler's code too: where one panics, that
// is the failure.
func (h *Host) failureOf(err error) (f *failure) {
	panicked := h.guarded(func() error {
		f = failureOf(err)
		return nil
	})
	if panicked != nil {
		return &failure{reason: panicked.Error()}
	}
	return f
}

// In a deferred call: the first place behind the runtime's own.
func panicText(reason any) string {
	var callers [32]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(0, callers[:])])
	panicking := false
	for {
		frame, more := frames.Next()
		isRuntime := strings.HasPrefix(frame.Function, "runtime.")
		if panicking && !isRuntime {
			return fmt.Sprintf("panic at %s:%d: %v", frame.File, frame.Line, reason)
		}
		panicking = panicking || frame.Function == "runtime.gopanic"
		if !more {
			return fmt.Sprintf("panic: %v", reason)
		}
	}
}

//export lopeGoCreate
func lopeGoCreate(raw *C.lope_host, number *C.uintptr_t) C.lope_status {
	host := &Host{raw: raw}
	var handler Handler
	err := host.guarded(func() (err error) {
		if makeHandler == nil {
			return errors.New("lope.Register was not called in an init function")
		}
		if handler, err = makeHandler(&Setup{host}); err != nil {
			return err
		}
		if handler == nil {
			return errors.New("what was given to lope.Register made no handler, and no error")
		}
		return checkTable(handler)
	})
	if err == nil {
		*number = C.uintptr_t(cgo.NewHandle(&instance{host, handler}))
		return C.LOPE_OK
	}
	f := host.failureOf(err)
	explainCreate(host, f.reason)
	host.end()
	if f.isInvalid {
		return C.LOPE_E_INVALID
	}
	return C.LOPE_E_FAILED
}

// What the table in C says must be what the handler is.
func checkTable(handler Handler) error {
	if _, batches := handler.(BatchHandler); batches != (C.lope_plugin_v1.handle_batch != nil) {
		return InvalidConfiguration("table.c is to say LOPE_GO_BATCHES when, and only when, the handler has HandleBatch()")
	}
	if _, flushes := handler.(Flusher); flushes != (C.lope_plugin_v1.flush != nil) {
		return InvalidConfiguration("table.c is to say LOPE_GO_FLUSHES when, and only when, the handler has Flush()")
	}
	return nil
}

//export lopeGoDestroy
func lopeGoDestroy(number C.uintptr_t) {
	it := instanceOf(number)
	if closer, there := it.handler.(Closer); there {
		// A panic is in the log, and there is nothing left that could go wrong.
		_ = it.host.guarded(func() error { closer.Close(); return nil })
	}
	cgo.Handle(number).Delete()
	it.host.end()
}

//export lopeGoHandle
func lopeGoHandle(number C.uintptr_t, raw *C.lope_message) C.lope_outcome {
	it := instanceOf(number)
	m := &Message{host: it.host, raw: raw, inCall: true}
	err := it.host.guarded(func() error { return it.handler.Handle(m) })
	m.raw = raw // whatever was done to it
	outcome := m.conclude(err)
	m.raw = nil
	return outcome
}

//export lopeGoHandleBatch
func lopeGoHandleBatch(number C.uintptr_t, raw *C.lope_batch, outcomes *C.lope_outcome) {
	it := instanceOf(number)
	count := int(raw.count)
	batch := &Batch{outcomes: unsafe.Slice(outcomes, count)}
	for _, message := range unsafe.Slice(raw.messages, count) {
		batch.messages = append(batch.messages, &Message{host: it.host, raw: message, inCall: true})
	}
	err := it.host.guarded(func() error {
		it.handler.(BatchHandler).HandleBatch(batch)
		return nil
	})
	for i, message := range batch.messages {
		switch {
		case message.held:
			batch.outcomes[i] = C.LOPE_HOLD
		case err != nil && batch.outcomes[i] == C.LOPE_NO_OUTCOME:
			batch.Set(i, err)
		}
		message.raw = nil
	}
	batch.outcomes = nil // which are the next batch's
}

//export lopeGoFlush
func lopeGoFlush(number C.uintptr_t, reason C.uint32_t) C.lope_status {
	it := instanceOf(number)
	err := it.host.guarded(func() error {
		err := it.handler.(Flusher).Flush(FlushReason(reason))
		if err != nil {
			it.host.Error(err.Error())
		}
		return err
	})
	if err != nil {
		return C.LOPE_E_FAILED
	}
	return C.LOPE_OK
}
