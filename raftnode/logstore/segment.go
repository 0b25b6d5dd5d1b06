package logstore

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A file gets its segment name only after its opening batch is synced: if the newest one that is called a segment does not begin
// like one, it is damaged. Files under the other name hold nothing.
const (
	segmentSuffix = ".log"
	freeSuffix    = ".free"
	numberDigits  = 10
)

func fileName(number uint32, suffix string) string {
	return fmt.Sprintf("%0*d%s", numberDigits, number, suffix)
}

// parseFileName returns the number in a name with the suffix.
func parseFileName(name, suffix string) (uint32, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != numberDigits {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	return uint32(n), err == nil
}

// segment is a file of the log that is open.
type segment struct {
	number uint32
	seed   uint32
	path   string
	file   vfs.File
	// lastSeq is the last batch. The writer's.
	lastSeq uint64

	// end is the offset behind the last batch, refs who uses the file: the log and every reader. The file is closed with the last
	// of them, and not recycled before that. Guarded by Log.mu.
	end  int64
	refs int
}

// release gives up one reference to each segment.
func (l *Log) release(segments ...*segment) error {
	var last []*segment
	l.mu.Lock()
	for _, s := range segments {
		if s.refs--; s.refs == 0 {
			last = append(last, s)
		}
	}
	l.mu.Unlock()
	var err error
	for _, s := range last {
		err = errors.Join(err, s.file.Close())
	}
	return err
}

// sweep recycles the retired segments that nobody reads any more. What replaces them is synced. That they are renamed need not be:
// the newest segment does not list them, whatever they are called.
func (l *Log) sweep() error {
	var idle []*segment
	l.mu.Lock()
	l.retired = slices.DeleteFunc(l.retired, func(s *segment) bool {
		if s.refs == 1 {
			idle = append(idle, s)
		}
		return s.refs == 1
	})
	l.mu.Unlock()
	if err := l.release(idle...); err != nil {
		return err
	}
	for _, s := range idle {
		if err := l.recycle(s.number); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.metrics.Free = len(l.free)
	l.mu.Unlock()
	return nil
}

// recycle takes the segment name from a file and keeps it for reuse, or removes it.
func (l *Log) recycle(number uint32) error {
	from := l.path(fileName(number, segmentSuffix))
	if !l.reusable(from) {
		return l.fs.Remove(from)
	}
	to := fileName(number, freeSuffix)
	if err := l.fs.Rename(from, l.path(to)); err != nil {
		return err
	}
	l.free = append(l.free, to)
	return nil
}

// reusable says whether a file is worth keeping. A short one would have to be extended, a long one holds too much space.
func (l *Log) reusable(path string) bool {
	if len(l.free) >= l.o.RecycleSegments {
		return false
	}
	info, err := l.fs.Stat(path)
	return err == nil && info.Size() >= l.o.SegmentBytes/2 && info.Size() <= l.o.SegmentBytes
}

// path is the path of a file of the log.
func (l *Log) path(name string) string { return l.fs.PathJoin(l.dir, name) }
