package lope

// #include "calls.h"
import "C"

import (
	"fmt"
	"math"
	"strconv"
	"time"
	"unsafe"
)

// Publication is what a handler sends. Its zero value is persistent, goes to the default exchange, now, and
// its cause is retried when it cannot be routed.
type Publication struct {
	Body            []byte
	Exchange        string
	RoutingKey      string
	ContentType     string
	ContentEncoding string
	CorrelationID   string
	ReplyTo         string
	MessageID       string // empty: the host makes a UUID
	Type            string
	Transient       bool
	MayBeUnroutable bool
	Delay           time.Duration
	Due             time.Time     // with Delay, the later of the two; a past time is now
	Expiration      time.Duration // 0: never
	Priority        uint8
	headers         []header
}

type header struct {
	name  string
	value any
}

// Header sets one header to an integer, a float, a bool, a string, a []byte, a time.Time or nil: another
// value of that name goes. What is of another type is refused when it is published.
func (p *Publication) Header(name string, value any) *Publication {
	for i := range p.headers {
		if p.headers[i].name == name {
			p.headers[i].value = value
			return p
		}
	}
	p.headers = append(p.headers, header{name, value})
	return p
}

// CopyHeaders sets those headers of m that can be passed on and that are not set yet. Left out are tables,
// arrays and decimals, numbers over the largest int64, CC and BCC; and by the host, when it is published,
// those of the broker's bookkeeping and of Lope's. Of several of one name the first counts.
func (p *Publication) CopyHeaders(m *Message) error {
	for i := 0; i < m.HeaderCount(); i++ {
		name, value, err := m.HeaderAt(i)
		if err != nil {
			return err
		}
		_, isOther := value.(Other)
		number, isUnsigned := value.(uint64)
		tooLarge := isUnsigned && number > math.MaxInt64
		if isOther || tooLarge || name == "" || name == "CC" || name == "BCC" || p.has(name) {
			continue
		}
		p.headers = append(p.headers, header{name, value})
	}
	return nil
}

func (p *Publication) has(name string) bool {
	for _, header := range p.headers {
		if header.name == name {
			return true
		}
	}
	return false
}

// Publish publishes on behalf of m. Sent when m's outcome is an ack, which the broker gets once all that was
// published for it is confirmed; dropped with any other outcome.
func (m *Message) Publish(p *Publication) error { return m.publish("publish", p, 0) }

// Reply is the same, to m's reply-to with its correlation id. The answer names no exchange and no routing
// key.
func (m *Message) Reply(answer *Publication) error { return m.publish("reply", answer, 1) }

func (m *Message) publish(what string, p *Publication, isReply C.int) error {
	expiration := millis(p.Expiration)
	if expiration > math.MaxUint32 {
		return &HostError{Invalid, what + ": an expiration of over 49 days"}
	}
	raw := C.lope_publication{
		delay_ms:      millis(p.Delay),
		expiration_ms: C.uint32_t(expiration),
		priority:      C.uint32_t(p.Priority),
		header_count:  C.size_t(len(p.headers)),
	}
	raw.body.size = C.size_t(len(p.Body))
	if p.Transient {
		raw.flags |= C.LOPE_PUB_TRANSIENT
	}
	if p.MayBeUnroutable {
		raw.flags |= C.LOPE_PUB_MAY_BE_UNROUTABLE
	}
	if p.Due.UnixMilli() > 0 {
		raw.due_unix_ms = C.uint64_t(p.Due.UnixMilli())
	}
	texts := make([]byte, 0, 256)
	var sizes [8]C.size_t
	for i, text := range [8]string{p.Exchange, p.RoutingKey, p.ContentType, p.ContentEncoding,
		p.CorrelationID, p.ReplyTo, p.MessageID, p.Type} {
		texts = append(texts, text...)
		sizes[i] = C.size_t(len(text))
	}
	headers := make([]C.lope_header, len(p.headers)+1)
	for i, header := range p.headers {
		headers[i].name.size = C.size_t(len(header.name))
		text, err := setValue(&headers[i].value, header.value)
		if err != nil {
			return fmt.Errorf("%s: header '%s': %w", what, header.name, err)
		}
		texts = append(append(texts, header.name...), text...)
	}
	texts = append(texts, 0) // so that there is something to point to
	var body unsafe.Pointer
	if len(p.Body) > 0 {
		body = unsafe.Pointer(&p.Body[0])
	}
	return check(what, m.order(func() C.lope_status {
		return C.lope_go_publish(m.host.raw, m.it(), isReply, raw, &sizes[0],
			(*C.char)(unsafe.Pointer(&texts[0])), &headers[0], body)
	}))
}

// Sets all but the pointer to its text, which it returns.
func setValue(to *C.lope_value, value any) (text string, err error) {
	integer := func(number int64) {
		to.kind = C.LOPE_INT64
		C.lope_go_set_u(to, C.uint64_t(number))
	}
	natural := func(number uint64) {
		to.kind = C.LOPE_UINT64
		C.lope_go_set_u(to, C.uint64_t(number))
	}
	switch value := value.(type) {
	case int:
		integer(int64(value))
	case int8:
		integer(int64(value))
	case int16:
		integer(int64(value))
	case int32:
		integer(int64(value))
	case int64:
		integer(value)
	case uint:
		natural(uint64(value))
	case uint8:
		natural(uint64(value))
	case uint16:
		natural(uint64(value))
	case uint32:
		natural(uint64(value))
	case uint64:
		natural(value)
	case float32:
		to.kind = C.LOPE_DOUBLE
		C.lope_go_set_d(to, C.double(value))
	case float64:
		to.kind = C.LOPE_DOUBLE
		C.lope_go_set_d(to, C.double(value))
	case bool:
		if value {
			integer(1)
		}
		to.kind = C.LOPE_BOOL
	case string:
		to.kind = C.LOPE_TEXT
		C.lope_go_set_size(to, C.size_t(len(value)))
		return value, nil
	case []byte:
		to.kind = C.LOPE_BYTES
		C.lope_go_set_size(to, C.size_t(len(value)))
		return string(value), nil
	case time.Time:
		if value.Unix() > 0 {
			natural(uint64(value.Unix()))
		}
		to.kind = C.LOPE_TIMESTAMP
	case nil:
		to.kind = C.LOPE_NULL
	default:
		return "", fmt.Errorf("expected a number, a truth, a text, bytes, a time or nil, found a %T", value)
	}
	return "", nil
}

func millis(d time.Duration) C.uint64_t {
	if d < 0 {
		return 0
	}
	return C.uint64_t(d.Milliseconds())
}

func utoa(number uint64) string { return strconv.FormatUint(number, 10) }
