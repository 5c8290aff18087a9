package serve

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"tandem/jobs/serve/read"
)

// Problem is an error as a client gets it (RFC 9457).
type Problem struct {
	Type   string `json:"type"` // "about:blank": the status says it all
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Limit names the limit that the request went beyond.
	Limit string `json:"limit,omitempty"`

	after time.Duration // for Retry-After
}

// Error implements error.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// errNotFound is told of what is not there and of what the caller may not see alike.
var errNotFound = &Problem{Status: http.StatusNotFound, Title: "There is nothing here", Detail: "no such path, or none that this token may see"}

// Bad is a request that is wrong.
func Bad(err error) *Problem {
	return &Problem{Status: http.StatusBadRequest, Title: "The request is wrong", Detail: err.Error()}
}

// storeAgain is when to ask again where the store was too slow.
const storeAgain = 10 * time.Second

// Fail answers with an error: a *Problem as it is, a limit as 422 with its name, a deadline that has passed as 503, all else as 500 without what it says.
func Fail(w http.ResponseWriter, err error) {
	var p *Problem
	var limit *read.LimitError
	switch {
	case errors.As(err, &p):
	case errors.As(err, &limit):
		p = &Problem{Status: http.StatusUnprocessableEntity, Title: "The request asks for too much", Detail: limit.Error(), Limit: limit.Name}
	case errors.Is(err, context.DeadlineExceeded):
		p = &Problem{Status: http.StatusServiceUnavailable, Title: "The answer takes too long", Detail: "the store does not answer in time; /readyz says whether it does at all", after: storeAgain}
	case errors.Is(err, context.Canceled):
		p = &Problem{Status: 499, Title: "The client went away"}
	default:
		p = &Problem{Status: http.StatusInternalServerError, Title: "The request could not be answered", Detail: "the service's log says more"}
	}
	answer := *p
	if answer.Type == "" {
		answer.Type = "about:blank"
	}
	if answer.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((answer.after+time.Second-1)/time.Second)))
	}
	if answer.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tandem"`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(answer.Status)
	json.NewEncoder(w).Encode(&answer) // a client that is gone is not told
}
