package lope

// #include "calls.h"
import "C"

// In create() there is no message yet. Apart from edge.go, whose C is not to define anything.
func explainCreate(host *Host, reason string) { C.lope_go_explain(host.raw, nil, reason) }

func isSecret(key string) bool { return C.lope_go_is_secret(key) != 0 }
