package raftkv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Attempt is one try of an operation that failed.
type Attempt struct {
	// Endpoint is the address that was asked.
	Endpoint string
	Err      error
}

// attemptsMax bounds the list of attempts in an error; the latest are kept.
const attemptsMax = 8

// CallError says that an operation failed and, if it is a write, that it was not applied. errors.Is and errors.As
// see Err and the errors of the latest eight attempts.
type CallError struct {
	// Operation names the call and its key.
	Operation string
	// Err is why the client gave up.
	Err error
	// Attempts are the latest failed attempts, eight at the most, oldest first; Omitted counts those before them.
	Attempts []Attempt
	Omitted  int
}

func (e *CallError) Error() string {
	return e.Operation + ": " + e.Err.Error() + describe(e.Attempts, e.Omitted, e.Err)
}

// Unwrap returns Err and the errors of Attempts, the latest first.
func (e *CallError) Unwrap() []error { return causes(e.Err, e.Attempts) }

// OutcomeUnknownError says that a write may or may not have been applied, now or later. errors.Is and errors.As see
// Err and the errors of the latest eight attempts.
type OutcomeUnknownError struct {
	// Operation names the call and its key.
	Operation string
	// Err is why the client gave up.
	Err error
	// Attempts are the latest failed attempts, eight at the most, oldest first; Omitted counts those before them.
	Attempts []Attempt
	Omitted  int
	// Write is what Client.Resolve asks by; nil if the call was no write of keys.
	Write *WriteID
}

func (e *OutcomeUnknownError) Error() string {
	next := "look before you do it again"
	if e.Write != nil {
		next = "ask with Resolve or read before you write again"
	}
	return e.Operation + ": the outcome is unknown, " + next + ": " + e.Err.Error() + describe(e.Attempts, e.Omitted, e.Err)
}

// Unwrap returns Err and the errors of Attempts, the latest first.
func (e *OutcomeUnknownError) Unwrap() []error { return causes(e.Err, e.Attempts) }

// causes are err and the errors of the attempts, the latest first.
func causes(err error, attempts []Attempt) []error {
	all := make([]error, 1, 1+len(attempts))
	all[0] = err
	for _, a := range slices.Backward(attempts) {
		all = append(all, a.Err)
	}
	return all
}

// describe renders attempts; of a single one whose error has been told, for whom it was waited. Attempts in a row that failed alike are one.
func describe(attempts []Attempt, omitted int, told error) string {
	if len(attempts) == 0 {
		return ""
	}
	if omitted == 0 && len(attempts) == 1 && errors.Is(told, attempts[0].Err) {
		if errors.Is(told, context.DeadlineExceeded) {
			return "; waiting for " + attempts[0].Endpoint
		}
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "; %d attempts", omitted+len(attempts))
	sep := ": "
	for i := 0; i < len(attempts); sep = ", " {
		a, times := attempts[i], 0
		for ; i < len(attempts) && attempts[i].Endpoint == a.Endpoint && attempts[i].Err.Error() == a.Err.Error(); i++ {
			times++
		}
		fmt.Fprintf(&b, "%s%s: %v", sep, a.Endpoint, a.Err)
		if times > 1 {
			fmt.Fprintf(&b, " (%d times)", times)
		}
	}
	return b.String()
}
