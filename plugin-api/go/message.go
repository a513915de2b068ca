package lope

// #include "calls.h"
import "C"

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// Message is valid until the call that it was given to returns, or, of a Held, until that is settled.
// Used after that it panics.
type Message struct {
	host   *Host
	raw    *C.lope_message // nil: its time is over
	inCall bool
	held   bool
}

func (m *Message) it() *C.lope_message {
	if m.raw == nil {
		panic("lope: a message is used after its call has returned, or after it was settled")
	}
	return m.raw
}

// ID is never used again in this process.
func (m *Message) ID() uint64 { return uint64(m.it().id) }

// Body is a copy of the content; decompressed when the group says so.
func (m *Message) Body() []byte { return append([]byte(nil), m.BodyView()...) }

// BodyView is the content itself: not to be written to, and not to be kept beyond the message's time.
func (m *Message) BodyView() []byte {
	body := m.it().body
	return unsafe.Slice((*byte)(body.data), int(body.size))
}

// Queue is where it comes from.
func (m *Message) Queue() string { return goString(m.it().queue) }

// Exchange is where it was published to; empty: the default exchange.
func (m *Message) Exchange() string { return goString(m.it().exchange) }

// RoutingKey is with which key it was published.
func (m *Message) RoutingKey() string { return goString(m.it().routing_key) }

// ConsumerTag is of the consumer that got it.
func (m *Message) ConsumerTag() string { return goString(m.it().consumer_tag) }

// ContentType is a property; empty if it has none, as those that follow.
func (m *Message) ContentType() string { return goString(m.it().content_type) }

// ContentEncoding is a property.
func (m *Message) ContentEncoding() string { return goString(m.it().content_encoding) }

// CorrelationID is a property.
func (m *Message) CorrelationID() string { return goString(m.it().correlation_id) }

// ReplyTo is where an answer goes.
func (m *Message) ReplyTo() string { return goString(m.it().reply_to) }

// MessageID is a property.
func (m *Message) MessageID() string { return goString(m.it().message_id) }

// ParentID is the message id of the message that this one was published for.
func (m *Message) ParentID() string { return goString(m.it().parent_id) }

// Type is a property.
func (m *Message) Type() string { return goString(m.it()._type) }

// AppID is a property.
func (m *Message) AppID() string { return goString(m.it().app_id) }

// UserID is a property.
func (m *Message) UserID() string { return goString(m.it().user_id) }

// Expiration is a property.
func (m *Message) Expiration() string { return goString(m.it().expiration) }

// Priority is a property.
func (m *Message) Priority() int { return int(m.it().priority) }

// DeliveryTag is the broker's number for it, for logs.
func (m *Message) DeliveryTag() uint64 { return uint64(m.it().delivery_tag) }

// Attempt is 1 the first time.
func (m *Message) Attempt() int { return int(m.it().attempt) }

// Crashes is how many workers it has taken down so far.
func (m *Message) Crashes() int { return int(m.it().crashes) }

// Redelivered says whether the broker has delivered it before, perhaps to somebody else.
func (m *Message) Redelivered() bool { return m.it().flags&C.LOPE_MSG_REDELIVERED != 0 }

// Persistent says whether it outlives a restart of the broker.
func (m *Message) Persistent() bool { return m.it().flags&C.LOPE_MSG_PERSISTENT != 0 }

// Received is when the daemon got it.
func (m *Message) Received() time.Time { return time.Unix(0, int64(m.it().received_unix_ns)) }

// Timestamp is the publisher's, to the second; the zero Time if there is none.
func (m *Message) Timestamp() time.Time {
	if m.it().timestamp == 0 {
		return time.Time{}
	}
	return time.Unix(int64(m.raw.timestamp), 0)
}

// Other is a header's value that is there but not shown: a table, an array or a decimal.
type Other struct{}

// Header is the first header of that name: an int64, uint64, float64, bool, string, []byte, time.Time, nil or
// Other. False when there is none.
func (m *Message) Header(name string) (any, bool) {
	var value C.lope_value
	status := m.order(func() C.lope_status {
		return C.lope_go_header_get(m.host.raw, m.it(), name, &value)
	})
	if status != C.LOPE_OK {
		return nil, false // the message is this call's, or held: it can only be that there is none
	}
	return goValue(&value), true
}

// HeaderText is the same where it is text or bytes, and empty otherwise.
func (m *Message) HeaderText(name string) string {
	switch value, _ := m.Header(name); text := value.(type) {
	case string:
		return text
	case []byte:
		return string(text)
	}
	return ""
}

// HeaderCount is how many headers there are.
func (m *Message) HeaderCount() int { return int(m.it().header_count) }

// HeaderAt is one header by place, from 0.
func (m *Message) HeaderAt(index int) (name string, value any, err error) {
	var header C.lope_header
	status := m.order(func() C.lope_status {
		return C.lope_go_header_at(m.host.raw, m.it(), C.uint32_t(index), &header)
	})
	if err := check("header_at", status); err != nil {
		return "", nil, err
	}
	return goString(header.name), goValue(&header.value), nil
}

func goValue(value *C.lope_value) any {
	switch value.kind {
	case C.LOPE_INT64:
		return int64(C.lope_go_i(value))
	case C.LOPE_UINT64:
		return uint64(C.lope_go_u(value))
	case C.LOPE_DOUBLE:
		return float64(C.lope_go_d(value))
	case C.LOPE_BOOL:
		return C.lope_go_i(value) != 0
	case C.LOPE_TEXT:
		return goString(C.lope_go_s(value))
	case C.LOPE_BYTES:
		return []byte(goString(C.lope_go_s(value)))
	case C.LOPE_TIMESTAMP:
		return time.Unix(int64(C.lope_go_u(value)), 0)
	case C.LOPE_NULL:
		return nil
	}
	return Other{}
}

// Explain says why the outcome is not an ack; for the log and the dead letter. An error that Handle returns
// says it too.
func (m *Message) Explain(reason string) error {
	return check("explain", m.order(func() C.lope_status {
		return C.lope_go_explain(m.host.raw, m.it(), reason)
	}))
}

// RetryAfter is the delay of this retry only, in place of the group's retry policy.
func (m *Message) RetryAfter(delay time.Duration) error {
	return check("retry_after", m.order(func() C.lope_status {
		return C.lope_go_retry_after(m.host.raw, m.it(), millis(delay))
	}))
}

// KeepAlive restarts the timeout of the running call, or of a held message. False when it was held and has
// timed out already, or was handed back; harmless.
func (m *Message) KeepAlive() (bool, error) {
	status := m.order(func() C.lope_status { return C.lope_go_keep_alive(m.host.raw, m.it()) })
	if status == Stale {
		return false, nil
	}
	return status == C.LOPE_OK, check("keep_alive", status)
}

// Hold keeps it: from now on what this gives says the outcome, and Handle returns nil.
func (m *Message) Hold() (*Held, error) {
	raw := m.it()
	if !m.inCall || m.held {
		return nil, &HostError{Stale, "hold"}
	}
	m.held = true
	return &Held{message: Message{host: m.host, raw: raw}}, nil
}

func (m *Message) order(f func() C.lope_status) Status {
	if m.inCall { // which is what the end of the handler waits for
		return Status(f())
	}
	return m.host.order(f)
}

func (m *Message) fail(f *failure) C.lope_outcome {
	// Where the host does not take it, the outcome counts all the same.
	_ = m.Explain(f.reason)
	if f.reject {
		return C.LOPE_REJECT
	}
	if f.hasAfter {
		_ = m.RetryAfter(f.after)
	}
	return C.LOPE_RETRY
}

// What the handler said, as the host wants to know it. A message that was held stays so, whatever else
// was said: who has it may have settled it already.
func (m *Message) conclude(err error) C.lope_outcome {
	if err == nil {
		if m.held {
			return C.LOPE_HOLD
		}
		return C.LOPE_ACK
	}
	f := m.host.failureOf(err)
	outcome := m.fail(f)
	if !m.held {
		return outcome
	}
	m.host.Warn("message " + utoa(m.ID()) + " is held: that its handler says '" + f.reason +
		"' does not count")
	return C.LOPE_HOLD
}

// Held is a message that is kept beyond its call. Any goroutine may settle it; one that nobody settles is
// retried when its timeout is up.
type Held struct {
	message Message
	settled atomic.Bool
}

// Message is to be read and published for until it is settled.
func (h *Held) Message() *Message { return &h.message }

// Ack says that it is done. False when it was not there to be settled any more: it was settled, has timed
// out, or was handed back; harmless.
func (h *Held) Ack() bool { return h.Settle(nil) }

// Settle says the outcome: nil is an ack, an error what it is for Handle. As Ack.
func (h *Held) Settle(err error) bool {
	if h.settled.Swap(true) {
		return false
	}
	m := &h.message
	outcome := C.lope_outcome(C.LOPE_ACK)
	if err != nil {
		outcome = m.fail(m.host.failureOf(err))
	}
	id := m.it().id
	m.raw = nil
	return m.host.order(func() C.lope_status {
		return C.lope_go_settle(m.host.raw, id, outcome)
	}) == C.LOPE_OK
}

// Batch is several messages at once, each of which wants its outcome. Valid until HandleBatch returns.
type Batch struct {
	messages []*Message
	outcomes []C.lope_outcome
}

// Len is at least 1.
func (b *Batch) Len() int { return len(b.messages) }

// Message is one of them, from 0.
func (b *Batch) Message(index int) *Message { return b.messages[index] }

// Set says the outcome of one message, as the error that Handle returns; the last word counts. It panics
// when HandleBatch has returned.
func (b *Batch) Set(index int, err error) {
	m := b.messages[index]
	m.it()
	b.outcomes[index] = m.conclude(err)
}
