package service

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// preconditions are the headers If-Match and If-None-Match of a request for a raw value (RFC 9110, section 13). The entity tag of a value is the
// mod revision of its key, in quotes.
type preconditions struct {
	// match and noneMatch are nil where the header is missing.
	match, noneMatch *tagList
}

// tagList is what such a header names: anything that there is, or some tags.
type tagList struct {
	any  bool
	tags []entityTag
}

type entityTag struct {
	weak   bool
	opaque string
}

// undated are the conditions on dates, and what to send instead. RFC 9110 wants them ignored where that is there, too.
var undated = [][2]string{{"If-Modified-Since", "If-None-Match"}, {"If-Unmodified-Since", "If-Match"}}

// readPreconditions refuses what it cannot take, because to ignore it would be to overwrite.
func readPreconditions(h http.Header) (p preconditions, err error) {
	for _, u := range undated {
		if h.Values(u[0]) != nil && h.Values(u[1]) == nil {
			return p, &raftnode.InvalidError{Field: u[0], Problem: "values have revisions and no dates; send " + u[1] + " with an ETag"}
		}
	}
	if p.match, err = readTags(h, "If-Match"); err != nil {
		return p, err
	}
	p.noneMatch, err = readTags(h, "If-None-Match")
	return p, err
}

// readTags reads * or a list of entity tags, from all lines of a header.
func readTags(h http.Header, name string) (*tagList, error) {
	lines := h.Values(name)
	if lines == nil {
		return nil, nil
	}
	rest := strings.Trim(strings.Join(lines, ","), " \t")
	if rest == "*" {
		return &tagList{any: true}, nil
	}
	l := &tagList{}
	for {
		rest = strings.TrimLeft(rest, " \t,") // empty elements of a list say nothing
		if rest == "" && len(l.tags) > 0 {
			return l, nil
		}
		tag, behind, ok := cutTag(rest)
		if behind = strings.TrimLeft(behind, " \t"); !ok || behind != "" && behind[0] != ',' {
			return nil, &malformedError{part: name + " header", problem: `it is * or a list of entity tags, which stand in quotes, as in the ETag of an answer: "7"`}
		}
		l.tags = append(l.tags, tag)
		rest = behind
	}
}

// cutTag takes the first entity tag off a list.
func cutTag(list string) (tag entityTag, behind string, ok bool) {
	list, tag.weak = strings.CutPrefix(list, "W/")
	list, ok = strings.CutPrefix(list, `"`)
	if !ok {
		return tag, list, false
	}
	tag.opaque, behind, ok = strings.Cut(list, `"`)
	noTag := func(c byte) bool { return c <= ' ' || c == 0x7f }
	return tag, behind, ok && !slices.ContainsFunc([]byte(tag.opaque), noTag)
}

// tagOf is the entity tag of a value.
func tagOf(modRevision uint64) string { return `"` + strconv.FormatUint(modRevision, 10) + `"` }

// names says whether the list has the tag of a revision, weak ones included or not.
func (l *tagList) names(modRevision uint64, weak bool) bool {
	return l.any || slices.ContainsFunc(l.tags, func(t entityTag) bool {
		return (weak || !t.weak) && `"`+t.opaque+`"` == tagOf(modRevision)
	})
}

// unmodified says whether a reader has the value already. The error is that If-Match, which comes first, does not hold.
func (p *preconditions) unmodified(r *raftkvv1.GetResponse) (bool, error) {
	current := r.GetKv().GetModRevision()
	if p.match != nil && !p.match.names(current, false) {
		return false, &preconditionError{
			key: r.GetKv().GetKey(), current: current, revision: r.GetHeader().GetRevision(), shard: r.GetHeader().GetShard(),
		}
	}
	return p.noneMatch != nil && p.noneMatch.names(current, true), nil
}

// explain says more of a condition that failed because a tag was weak: its number may well be the current one.
func (p *preconditions) explain(err error) error {
	if err == nil || p.match == nil || !slices.ContainsFunc(p.match.tags, func(t entityTag) bool { return t.weak }) {
		return err
	}
	f := *failureOf(err)
	if _, failed := f.detail.(*raftkvv1.PreconditionFailed); !failed {
		return err
	}
	f.message += `; weak tags (W/"…") match nothing in If-Match, send the ETag without W/`
	return &f
}

// neverRevision is one that no shard gets to. A tag that is none of ours names no value, so a condition on it never holds.
const neverRevision = math.MaxUint64

// condition is what they ask of a write; nil is nothing. The contract has one condition for a write, so not all that HTTP can say can be done.
func (p *preconditions) condition() (*raftkvv1.Condition, error) {
	switch {
	case p.match == nil && p.noneMatch == nil:
		return nil, nil
	case p.match != nil && p.noneMatch != nil:
		return nil, &raftnode.InvalidError{Field: "If-None-Match", Problem: "a write takes it or If-Match, not both"}
	case p.noneMatch != nil && !p.noneMatch.any:
		return nil, &raftnode.InvalidError{Field: "If-None-Match", Problem: "a write takes * only, which is: if the key does not exist; for a version of the key, send If-Match"}
	case p.noneMatch != nil || p.match.any:
		return &raftkvv1.Condition{Condition: &raftkvv1.Condition_Exists{Exists: p.match != nil}}, nil
	}
	named := []uint64{}
	for _, t := range p.match.tags {
		n, err := strconv.ParseUint(t.opaque, 10, 64)
		if err == nil && n > 0 && p.match.names(n, false) && !slices.Contains(named, n) {
			named = append(named, n)
		}
	}
	switch len(named) {
	case 0:
		named = append(named, neverRevision)
	case 1:
	default:
		return nil, &raftnode.InvalidError{Field: "If-Match", Problem: fmt.Sprintf("a write takes one revision, this names %d", len(named))}
	}
	return &raftkvv1.Condition{Condition: &raftkvv1.Condition_ModRevision{ModRevision: named[0]}}, nil
}
