package service

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// Bounds of the contract, whose annotations have them, too: TestRulesAgree compares the two.
const (
	ttlMillisMax = 10 * 365 * 24 * 3600 * 1000
	leaseIDMax   = 1<<63 - 1
	// revokeKeysMax is how many keys a revoke removes before it is answered.
	revokeKeysMax = 1024
)

// leases has the methods of LeaseService.
type leases struct{ *Service }

// Grant begins a lease.
func (s leases) Grant(ctx context.Context, req *raftkvv1.GrantRequest) (*raftkvv1.GrantResponse, error) {
	return invoke(ctx, s.Service, opGrantLease, req, func(ctx context.Context, req *raftkvv1.GrantRequest) (*raftkvv1.GrantResponse, error) {
		res, err := s.doLease(ctx, req.GetRequestId(), &storev1.LeaseCommand{
			Id: leaseID(req.GetRequestId()), Action: &storev1.LeaseCommand_Grant{Grant: &storev1.LeaseGrant{TtlMs: req.GetTtlMs()}},
		})
		if err != nil {
			return nil, err
		}
		return &raftkvv1.GrantResponse{Header: s.writeHeader(res), Lease: prolonged(res)}, nil
	})
}

// KeepAlive lets a lease live on.
func (s leases) KeepAlive(ctx context.Context, req *raftkvv1.KeepAliveRequest) (*raftkvv1.KeepAliveResponse, error) {
	return invoke(ctx, s.Service, opKeepAlive, req, func(ctx context.Context, req *raftkvv1.KeepAliveRequest) (*raftkvv1.KeepAliveResponse, error) {
		res, err := s.doLease(ctx, nil, &storev1.LeaseCommand{
			Id: req.GetId(), Action: &storev1.LeaseCommand_KeepAlive{KeepAlive: &storev1.LeaseKeepAlive{}},
		})
		if err != nil {
			return nil, err
		}
		return &raftkvv1.KeepAliveResponse{Header: s.writeHeader(res), Lease: prolonged(res)}, nil
	})
}

// Revoke ends a lease.
func (s leases) Revoke(ctx context.Context, req *raftkvv1.RevokeRequest) (*raftkvv1.RevokeResponse, error) {
	return invoke(ctx, s.Service, opRevokeLease, req, func(ctx context.Context, req *raftkvv1.RevokeRequest) (*raftkvv1.RevokeResponse, error) {
		res, err := s.doLease(ctx, req.GetRequestId(), &storev1.LeaseCommand{
			Id: req.GetId(), Action: &storev1.LeaseCommand_Revoke{Revoke: &storev1.LeaseRevoke{MaxKeys: revokeKeysMax}},
		})
		if err != nil {
			return nil, err
		}
		return &raftkvv1.RevokeResponse{Header: s.writeHeader(res)}, nil
	})
}

// GetLease returns a lease.
func (s leases) GetLease(ctx context.Context, req *raftkvv1.GetLeaseRequest) (*raftkvv1.GetLeaseResponse, error) {
	return invoke(ctx, s.Service, opGetLease, req, s.getLease)
}

// ListLeases returns one page of leases.
func (s leases) ListLeases(ctx context.Context, req *raftkvv1.ListLeasesRequest) (*raftkvv1.ListLeasesResponse, error) {
	return invoke(ctx, s.Service, opListLeases, req, s.listLeases)
}

// leaseID makes the id of a new lease. Attempts of one request must come to one lease, and so to one shard, which remembers the request: their id
// follows from the request's, whose client is random. Ids are not for clients to choose: one that was used twice would let the end of the first
// lease take the keys of the second with it, in the shards that had not heard of the end.
func leaseID(id *raftkvv1.RequestId) uint64 {
	for {
		n := rand.Uint64()
		if id != nil {
			n = xxhash.Sum64(binary.BigEndian.AppendUint64(append([]byte(nil), id.GetClientId()...), id.GetSequence()))
		}
		if n >>= 1; n != 0 || id != nil {
			return max(n, 1)
		}
	}
}

func (s *Service) doLease(ctx context.Context, id *raftkvv1.RequestId, c *storev1.LeaseCommand) (*raftnode.Result, error) {
	command := &storev1.Command{Body: &storev1.Command_Lease{Lease: c}}
	if id != nil {
		command.RequestId = &storev1.RequestId{
			ClientId: id.GetClientId(), Sequence: id.GetSequence(), Seen: id.GetSeen(), AckedBelow: id.GetAckedBelow(),
		}
	}
	res := s.do(ctx, &raftnode.Request{AutoShard: true, Command: command})
	if err := writeFailed(&res, 0); err != nil {
		return nil, err
	}
	return &res, nil
}

// prolonged is a lease that has just been granted or kept.
func prolonged(r *raftnode.Result) *raftkvv1.Lease {
	ttl := r.Write.GetLeaseTtlMs()
	return &raftkvv1.Lease{Id: r.Write.GetLeaseId(), TtlMs: ttl, RemainingMs: ttl}
}

func (s *Service) getLease(ctx context.Context, req *raftkvv1.GetLeaseRequest) (*raftkvv1.GetLeaseResponse, error) {
	res := s.do(ctx, &raftnode.Request{AutoShard: true, Read: &peerv1.ReadRequest{Lease: &peerv1.LeaseRead{Ids: []uint64{req.GetId()}}}})
	if res.Err != nil {
		return nil, res.Err
	}
	if len(res.Read.GetLeases()) != 1 {
		return nil, &raftnode.LeaseNotFoundError{ID: req.GetId()}
	}
	l := res.Read.GetLeases()[0]
	answer := &raftkvv1.GetLeaseResponse{
		Header: s.readHeader(uint32(res.Shard), res.Origin),
		Lease:  &raftkvv1.Lease{Id: l.GetId(), TtlMs: l.GetTtlMs(), RemainingMs: raftnode.LeaseRemaining(l.GetDeadlineMs(), res.Read.GetClockMs())},
	}
	if !req.GetKeys() {
		return answer, nil
	}
	page, err := s.node.Leases(ctx, &peerv1.LeaseRead{KeysOf: req.GetId(), KeysAfter: req.GetKeysAfter(), MaxItems: uint32(s.limits.PageItems)})
	if err != nil {
		return nil, err
	}
	answer.Keys, answer.MoreKeys = page.Keys, page.More
	return answer, nil
}

// leaseToken is the version of page tokens of leases: base64url(version, id of the last lease).
const leaseToken = 1

func (s *Service) listLeases(ctx context.Context, req *raftkvv1.ListLeasesRequest) (*raftkvv1.ListLeasesResponse, error) {
	r := &peerv1.LeaseRead{MaxItems: req.GetLimit()}
	if r.MaxItems == 0 {
		r.MaxItems = pageItemsDefault
	}
	r.MaxItems = min(r.MaxItems, uint32(s.limits.PageItems))
	if token := req.GetPageToken(); token != "" {
		b, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || len(b) != 1+8 || b[0] != leaseToken {
			return nil, &raftnode.InvalidError{Field: "page_token", Problem: "is not a token that this server made"}
		}
		r.After = binary.BigEndian.Uint64(b[1:])
	}
	page, err := s.node.Leases(ctx, r)
	if err != nil {
		return nil, err
	}
	answer := &raftkvv1.ListLeasesResponse{Header: s.nodeHeader()}
	for _, l := range page.Leases {
		answer.Leases = append(answer.Leases, &raftkvv1.Lease{Id: l.GetId(), TtlMs: l.GetTtlMs(), RemainingMs: l.GetDeadlineMs()})
	}
	if n := len(page.Leases); page.More && n > 0 {
		answer.NextPageToken = base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64([]byte{leaseToken}, page.Leases[n-1].GetId()))
	}
	return answer, nil
}

// checkLife checks how long a put lets its key live; prefix is the path of the put.
func checkLife(prefix string, ttlMs, lease uint64) error {
	switch {
	case ttlMs > ttlMillisMax:
		return &raftnode.LimitError{Field: prefix + "ttl_ms", Limit: ttlMillisMax, Actual: ttlMs}
	case lease > leaseIDMax:
		return &raftnode.LimitError{Field: prefix + "lease_id", Limit: leaseIDMax, Actual: lease}
	case ttlMs != 0 && lease != 0:
		return &raftnode.InvalidError{Field: prefix + "lease_id", Problem: "cannot be combined with ttl_ms"}
	default:
		return nil
	}
}

// takeLife reads ttl and lease from the query of a raw PUT, and returns the URL without them.
func takeLife(u *url.URL, req *raftkvv1.PutRequest) (*url.URL, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, &malformedError{part: "query", problem: err.Error()}
	}
	for name, read := range map[string]func(string) error{
		"ttl": func(text string) (err error) {
			req.TtlMs, err = parseTTL(text)
			return err
		},
		"lease": func(text string) error {
			id, err := strconv.ParseUint(text, 10, 64)
			if err != nil || id == 0 {
				return &raftnode.InvalidError{Field: "lease", Problem: "is the id of a lease, a number"}
			}
			req.LeaseId = id
			return nil
		},
	} {
		values, ok := query[name]
		switch {
		case !ok:
			continue
		case len(values) > 1:
			return nil, &malformedError{part: "query", problem: fmt.Sprintf("parameter %q comes more than once", name)}
		}
		if err := read(values[0]); err != nil {
			return nil, err
		}
		delete(query, name)
	}
	rest := *u
	rest.RawQuery = query.Encode()
	return &rest, nil
}

// parseTTL reads a time to live of at least a millisecond, as 30s or 1h30m.
func parseTTL(text string) (uint64, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Millisecond || d%time.Millisecond != 0 {
		return 0, &raftnode.InvalidError{Field: "ttl", Problem: "is a time of at least 1ms, in whole milliseconds, as 500ms, 30s or 1h30m"}
	}
	return uint64(d.Milliseconds()), nil //nolint:gosec // positive
}
