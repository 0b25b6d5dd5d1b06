package raftkv

import (
	"context"
	"fmt"
	"iter"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// scanPage is how many keys Scan asks for at a time.
const scanPage = 1000

// Range is a range of keys: Prefix, or from Start up to but not including End. Empty bounds are open, so the zero
// Range is all keys.
type Range struct {
	Prefix     string
	Start, End string
}

// Prefix is the range of all keys that begin with p.
func Prefix(p string) Range { return Range{Prefix: p} }

// ScanOptions change what Scan, Pages and List return.
type ScanOptions struct {
	// Limit is how many keys to return at most, of Pages and List in one page. 0 is no limit for Scan, and the choice of the server for a page.
	Limit int
	// Reverse goes from the last key to the first.
	Reverse bool
	// KeysOnly leaves the values out.
	KeysOnly bool
	// Stale reads what a replica has, without asking the others, if that is at most MaxStaleness old (0 is any age) and holds what AtLeast names: see StaleWithin
	// and AtLeast. Each page may come from another replica.
	Stale        bool
	MaxStaleness time.Duration
	AtLeast      Token
	// Revision reads the range as it was at a revision of its shard, such as the Revision of the Result of a write, on every page; 0 is now. Only for keys of one
	// shard, because each counts its own revisions: a range within one whole {tag}, or any of a cluster of one shard; others are a *CrossShardError. A revision that
	// is forgotten is a *CompactedError, one that is not reached a *FutureRevisionError. Not with Stale.
	Revision uint64
}

// Page is a part of a range.
type Page struct {
	Items []Item
	// Next is the token of the page that follows; empty after the last.
	Next string
	// Token is what the page shows, of every shard: see AtLeast.
	Token Token
	// Age is how old the state may be that the page shows, of the oldest of its parts; 0 unless Stale was asked for, AgeUnknown if it is not known of one.
	Age time.Duration
	// Parts are the states of the shards that the page shows, by ascending shard.
	Parts []PagePart
}

// PagePart is the state of one shard that a page shows.
type PagePart struct {
	Shard    placement.ShardID
	Revision uint64
	// Age is as in Page.
	Age time.Duration
}

// Scan returns the items of a range in key order. It reads page by page: each page is linearizable, the whole is not
// one snapshot, unless o.Revision makes it one. A page that fails is retried; an error ends the sequence. The timeout of the client holds for each
// page, the deadline of ctx for all of them. A loop may be left at any time: nothing stays open between pages.
func (c *Client) Scan(ctx context.Context, r Range, o ScanOptions) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		token, left := "", o.Limit
		for {
			page := o
			page.Limit = scanPage
			if o.Limit > 0 {
				page.Limit = min(left, scanPage)
			}
			p, err := c.List(ctx, r, page, token)
			if err != nil {
				yield(Item{}, err)
				return
			}
			for _, item := range p.Items {
				if !yield(item, nil) {
					return
				}
			}
			left -= len(p.Items)
			token = p.Next
			if token == "" || o.Limit > 0 && left <= 0 {
				return
			}
		}
	}
}

// Pages returns the pages of a range one after the other, of o.Limit items at most; 0 is the choice of the server. Errors, times and an early end are as in
// Scan. A page may be empty, as the only one of an empty range is.
func (c *Client) Pages(ctx context.Context, r Range, o ScanOptions) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		for token := ""; ; {
			p, err := c.List(ctx, r, o, token)
			if !yield(p, err) || err != nil || p.Next == "" {
				return
			}
			token = p.Next
		}
	}
}

// List returns one page of a range: the first if token is empty, else the one for which a page before gave token as
// Next. A page may hold fewer items than o.Limit although others follow.
func (c *Client) List(ctx context.Context, r Range, o ScanOptions, token string) (Page, error) {
	request := &raftkvv1.ListRequest{
		Prefix: r.Prefix, Start: r.Start, End: r.End,
		Limit:     uint32(max(o.Limit, 0)),
		Reverse:   o.Reverse,
		KeysOnly:  o.KeysOnly,
		PageToken: token,
		Revision:  o.Revision,
	}
	s := stale{use: o.Stale, bound: o.MaxStaleness, token: o.AtLeast}
	err := s.ask(&request.Consistency, &request.MaxStalenessMs, &request.Token)
	if err == nil && !o.Stale && (o.MaxStaleness != 0 || o.AtLeast != "") {
		err = &InvalidError{Problem: "MaxStaleness and AtLeast need Stale"}
	}
	if err == nil && o.Stale && o.Revision != 0 {
		err = &InvalidError{Problem: "Revision does not go with Stale: any replica that has the revision shows it without asking others"}
	}
	if err != nil {
		return Page{}, &CallError{Operation: "list", Err: err}
	}
	var page Page
	var shown uint64
	err = c.unary(ctx, "list", nil, reads, func(ctx context.Context, e *endpoint) error {
		response, err := e.kv.List(ctx, request)
		if err != nil {
			return err
		}
		shown = response.GetHeader().GetRevision()
		page = Page{
			Items: make([]Item, len(response.Kvs)), Next: response.NextPageToken,
			Token: Token(response.GetHeader().GetToken()), Age: ageOf(response.GetHeader()),
			Parts: partsOf(response),
		}
		for i, kv := range response.Kvs {
			page.Items[i] = itemOf(kv)
			page.Items[i].Age = page.Age
		}
		return nil
	})
	if err == nil && o.Revision != 0 && shown != o.Revision {
		return Page{}, &CallError{Operation: "list", Err: fmt.Errorf(
			"%w: it showed revision %d and not %d, as releases do that know no ranges at a revision; upgrade it", ErrRefused, shown, o.Revision)}
	}
	return page, err
}

// partsOf are the parts of a page; of one that one shard has made, the header says all.
func partsOf(r *raftkvv1.ListResponse) []PagePart {
	headers := r.GetParts()
	if len(headers) == 0 && r.GetHeader().GetShard() != 0 {
		headers = []*raftkvv1.ResponseHeader{r.GetHeader()}
	}
	parts := make([]PagePart, len(headers))
	for i, h := range headers {
		parts[i] = PagePart{Shard: placement.ShardID(h.GetShard()), Revision: h.GetRevision(), Age: ageOf(h)}
	}
	return parts
}
