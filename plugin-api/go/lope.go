// Package lope is what handlers for Lope, a daemon that runs RabbitMQ consumers, are written with in Go:
//
//	package main
//
//	import (
//		"C"
//		"lope"
//	)
//
//	type greet struct{ host *lope.Host }
//
//	func (g *greet) Handle(m *lope.Message) error {
//		if len(m.Body()) == 0 {
//			return lope.Reject("nobody to greet")
//		}
//		g.host.Info("Hello, " + string(m.Body()) + "!")
//		return nil
//	}
//
//	func init() {
//		lope.Register(func(s *lope.Setup) (lope.Handler, error) {
//			return &greet{s.Host()}, nil
//		})
//	}
//
//	func main() {} // is not run
//
// A file table.c beside it has the handler's table: see lope/go.h. Both are built with
// go build -buildmode=c-shared -o greet.so.
//
// # Outcomes
//
// A handler returns nil when a message is done. Any error has it come again, with the error as the
// reason; RetryAfter says when, and Reject makes it a dead letter. A panic is recovered, and has the
// message come again with its text and place as the reason.
//
// # Threads
//
// All calls of one handler come one at a time. A Host, a Metric and a Held may be used by any goroutine. A
// Message is valid until Handle returns, and panics when it is used after that. A panic in a goroutine
// of the handler's own ends its worker process, as everywhere in Go.
package lope

import (
	"errors"
	"fmt"
	"time"
)

// Handler handles messages. One is made for each thread of the group.
type Handler interface {
	// Handle returns nil when the message is done, or is held.
	Handle(m *Message) error
}

// BatchHandler is a Handler that does better with many messages at once, in a group with `batch`. Its
// table.c says LOPE_GO_BATCHES.
type BatchHandler interface {
	Handler
	// HandleBatch says with Batch.Set what became of each message. One that has no outcome when it
	// returns, or panics, is retried.
	HandleBatch(b *Batch)
}

// Flusher is a Handler that settles what it holds when it is told to. Its table.c says
// LOPE_GO_FLUSHES.
type Flusher interface {
	Handler
	// Flush returns an error to have it logged.
	Flush(reason FlushReason) error
}

// Closer is a Handler that has something to do at a clean end.
type Closer interface {
	Handler
	Close()
}

// FlushReason is why Flush is called.
type FlushReason uint32

// The reasons.
const (
	FlushInterval   FlushReason = 1 // the group's flush_interval is up
	FlushWindowFull FlushReason = 2 // nothing more can arrive until something is settled
	FlushDrain      FlushReason = 3 // the last call: what is held after it is handed back
)

// Level is how grave a line of the log is.
type Level int32

// The levels.
const (
	Debug Level = iota
	Info
	Warn
	Error
)

// Status is why the host did not do what it was told to.
type Status int32

// The statuses.
const (
	Failed      Status = 1 // it did not work
	Invalid     Status = 2 // an argument is wrong
	NotFound    Status = 3 // no such option, header or metric
	TooLarge    Status = 4 // over a limit
	WrongThread Status = 5 // not allowed on this thread, or not at this moment
	Stopping    Status = 6 // the daemon is draining, or the handler has ended
	Unsupported Status = 7 // this host does not have it
	Stale       Status = 8 // the message is settled already, or was handed back
)

func (s Status) String() string {
	texts := [...]string{
		Failed:      "it failed",
		Invalid:     "an argument is not valid",
		NotFound:    "there is no such thing",
		TooLarge:    "it is over a limit",
		WrongThread: "not allowed on this thread, or not at this moment",
		Stopping:    "the daemon is stopping",
		Unsupported: "this version of Lope does not support it",
		Stale:       "the message is settled already, or was handed back",
	}
	if s < Failed || int(s) >= len(texts) {
		return fmt.Sprintf("unknown status %d", int32(s))
	}
	return texts[s]
}

// HostError says that the host did not do what it was told to.
type HostError struct {
	Status Status
	What   string // which function
}

func (e *HostError) Error() string { return e.What + ": " + e.Status.String() }

type failure struct {
	reason    string
	reject    bool
	after     time.Duration
	hasAfter  bool
	isInvalid bool // the configuration is
}

func (f *failure) Error() string { return f.reason }

// Reject says that a message can never be handled: it is a dead letter. It may be wrapped.
func Reject(reason string) error { return &failure{reason: reason, reject: true} }

// Retry says that a message could be handled later, as any other error does.
func Retry(reason string) error { return &failure{reason: reason} }

// RetryAfter says when: after a delay of 366 days at most, in place of the group's retry policy. It may
// be wrapped.
func RetryAfter(delay time.Duration, reason string) error {
	return &failure{reason: reason, after: delay, hasAfter: true}
}

type invalidConfiguration struct{ text string }

func (e *invalidConfiguration) Error() string { return e.text }

// InvalidConfiguration, returned by what makes a handler, has the group not started again until its
// configuration changes. After any other error it is tried again, with growing pauses.
func InvalidConfiguration(text string) error { return &invalidConfiguration{text} }

// Make makes a handler.
type Make func(s *Setup) (Handler, error)

var makeHandler Make

// Register says how handlers are made. Once, in an init function.
func Register(m Make) {
	if makeHandler != nil {
		panic("lope.Register: called twice")
	}
	makeHandler = m
}

func failureOf(err error) *failure {
	found := failure{reason: err.Error()}
	var f *failure
	if errors.As(err, &f) {
		found.reject, found.after, found.hasAfter = f.reject, f.after, f.hasAfter
	}
	var invalid *invalidConfiguration
	found.isInvalid = errors.As(err, &invalid)
	return &found
}
