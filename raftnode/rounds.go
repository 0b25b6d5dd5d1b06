package raftnode

import "time"

// readRound are the reads that came in before a ReadIndex round started. Its answer confirms them, and so does that of any later round.
type readRound struct {
	number   uint64
	began    time.Duration // Node.uptime
	requests []*Request
}

// roundsMax bounds the rounds whose answers are told apart. More are under way only on a network on which an answer takes as long as an
// election.
const roundsMax = 8

// beginRound lets reads wait for a round that has just started. The oldest rounds become one if there are too many: their reads then wait
// for the later of the two answers.
func (m *member) beginRound(number uint64, began time.Duration, requests []*Request) {
	if len(requests) == 0 {
		return // A round for the reads of earlier ones.
	}
	m.rounds = append(m.rounds, readRound{number: number, began: began, requests: requests})
	if len(m.rounds) > roundsMax {
		m.rounds[1].requests = append(m.rounds[0].requests, m.rounds[1].requests...)
		m.rounds[0] = readRound{}
		m.rounds = m.rounds[1:]
	}
}

// endRounds takes the reads that the answer to a round confirms, and says when the last of their rounds began.
func (m *member) endRounds(number uint64) (out []*Request, began time.Duration) {
	n := 0
	for n < len(m.rounds) && m.rounds[n].number <= number {
		if out == nil {
			out = m.rounds[n].requests // Nearly always there is one round only.
		} else {
			out = append(out, m.rounds[n].requests...)
		}
		began = m.rounds[n].began
		m.rounds[n] = readRound{}
		n++
	}
	m.rounds = m.rounds[n:]
	return out, began
}

// roundReads is how many reads wait for the answer to a round.
func (m *member) roundReads() int {
	n := 0
	for _, r := range m.rounds {
		n += len(r.requests)
	}
	return n
}

// expireRounds lets expire shorten the lists of the reads, and forgets rounds that nothing waits for any more.
func (m *member) expireRounds(expire func([]*Request) []*Request) {
	rest := m.rounds[:0]
	for _, r := range m.rounds {
		if r.requests = expire(r.requests); len(r.requests) > 0 {
			rest = append(rest, r)
		}
	}
	clear(m.rounds[len(rest):])
	m.rounds = rest
}
