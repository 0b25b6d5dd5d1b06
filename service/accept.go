package service

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// The forms of answers.
const (
	octetsType = "application/octet-stream"
	jsonType   = "application/json"
	linesType  = "application/x-ndjson"
	htmlType   = "text/html"
)

// negotiate returns the form among offers that Accept prefers, as RFC 9110 section 12.5.1 has it: the highest weight, each form with
// that of the range that names it most closely. Of equals the one that is named goes before one that a wildcard lets pass, and the
// first offer before the others. No Accept, or none that can be read, takes the first.
func negotiate(r *http.Request, offers ...string) (string, error) {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	ranges := readAccept(accept)
	if len(ranges) == 0 {
		return offers[0], nil
	}
	best, at := acceptRange{}, ""
	for _, offer := range offers {
		if a := closest(ranges, offer); a.weight > best.weight || a.weight == best.weight && a.weight > 0 && a.closeness > best.closeness {
			best, at = a, offer
		}
	}
	if at == "" {
		return "", &notAcceptableError{got: accept, offers: strings.Join(offers, ", ")}
	}
	return at, nil
}

// acceptRange is a part of Accept.
type acceptRange struct {
	name      string
	weight    float64
	closeness int // 3 for a form, 2 for type/*, 1 for */*
}

func readAccept(accept string) []acceptRange {
	var ranges []acceptRange
	for part := range strings.SplitSeq(accept, ",") {
		name, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		a := acceptRange{name: name, weight: 1, closeness: 3}
		if q, ok := parameters["q"]; ok {
			if a.weight, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		if name == "*/*" {
			a.closeness = 1
		} else if prefix, wild := strings.CutSuffix(name, "*"); wild {
			a.name, a.closeness = prefix, 2
		}
		ranges = append(ranges, a)
	}
	return ranges
}

// closest is the range that speaks of a form; none, which weighs nothing, if no range does.
func closest(ranges []acceptRange, form string) acceptRange {
	var best acceptRange
	for _, a := range ranges {
		speaks := a.closeness == 1 || a.name == form || a.closeness == 2 && strings.HasPrefix(form, a.name)
		if speaks && (a.closeness > best.closeness || a.closeness == best.closeness && a.weight > best.weight) {
			best = a
		}
	}
	return best
}
