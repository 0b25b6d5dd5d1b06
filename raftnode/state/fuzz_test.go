package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/raftkv/raftkv/raftnode/placement"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// refusal says whether an error is one that bad bytes may cause.
func refusal(err error) bool {
	var format *FormatError
	var version *VersionError
	return errors.Is(err, ErrBadSnapshot) || errors.Is(err, ErrInvalidEntry) || errors.As(err, &format) || errors.As(err, &version)
}

// FuzzSnapshotStream gives any bytes to Stage. What it takes must be a state that can be served.
func FuzzSnapshotStream(f *testing.F) {
	small := newServing(f, Options{})
	f.Add(exportOf(f, small.store, testShard))
	small.commit(as(1, 1, 0, 0, putCommand("a", "1")), putCommand("{t}b", "2"), writeCommand(deleteOp("a")), trimCommand(2, 9))
	f.Add(exportOf(f, small.store, testShard))
	f.Add(exportOf(f, newFull(f, Options{}).store, testShard))
	f.Add([]byte{streamVersion})
	f.Add([]byte{streamVersion, chunkHeader, 0xff, 0xff, 0xff, 0xff})
	target := openStore(f, Options{})
	f.Fuzz(func(t *testing.T, stream []byte) {
		h, err := target.Stage("staged", bytes.NewReader(stream))
		if err != nil {
			if !refusal(err) {
				t.Fatal(err)
			}
			return
		}
		id := placement.ShardID(h.Shard)
		if err := target.Ingest(id, "staged"); err != nil {
			t.Fatal(err)
		}
		checkDigests(t, target, id)
		if p := shardOf(t, target, id).Position(); p.Index != h.Index || p.Term != h.Term {
			t.Errorf("header %v, position %+v", h, p)
		}
		if err := target.Drop(id); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzSnapshotContent puts a pair of any content into a stream whose checksums are right, in the place of another.
func FuzzSnapshotContent(f *testing.F) {
	var keys, values [][]byte
	var header *storev1.SnapshotHeader
	err := readStream(bytes.NewReader(exportOf(f, newFull(f, Options{}).store, testShard)),
		func(h *storev1.SnapshotHeader) error { header = h; return nil },
		func(k, v []byte) error {
			keys, values = append(keys, bytes.Clone(k)), append(values, bytes.Clone(v))
			return nil
		})
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(keys); i += 5 {
		f.Add(i, keys[i], values[i])
	}
	target := openStore(f, Options{})
	f.Fuzz(func(t *testing.T, at int, key, value []byte) {
		var b bytes.Buffer
		sw, err := newStreamWriter(&b, header)
		if err != nil {
			t.Fatal(err)
		}
		for i := range keys {
			k, v := keys[i], values[i]
			if i == at {
				k, v = key, value
			}
			if err := sw.pair(k, v); err != nil {
				t.Fatal(err)
			}
		}
		if err := sw.close(); err != nil {
			t.Fatal(err)
		}
		if _, err := target.Stage("staged", &b); err != nil {
			if !refusal(err) {
				t.Fatal(err)
			}
			return
		}
		if err := target.Ingest(testShard, "staged"); err != nil {
			t.Fatal(err)
		}
		checkDigests(t, target, testShard)
		exportOf(t, target, testShard)
		if err := target.Drop(testShard); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzEntry gives any bytes to two replicas. Both must refuse them alike or become equal.
func FuzzEntry(f *testing.F) {
	seed := func(cs ...*storev1.Command) { f.Add(must(EncodeEntry(entry(cs...)))) }
	seed()
	seed(putCommand("a", "1"), as(1, 2, 3, 4, compares(writeCommand(deleteOp("b")), valueIs("a", "1"))))
	seed(trimCommand(3, 4), bootstrapCommand())
	seed(as(1, 2, 3, 4, fenceCommand("a")), under("k", 1, 9, putCommand("a", "1")), under("k", 2, 9, putCommand("b", "1")), expireCommand(1))
	long := strings.Repeat("x", separateBytes)
	seed(putCommand("a", long), putCommand("a", "short"), trimCommand(9, 9), putCommand("b", long))
	seed(putCommand("a", "1"), writeCommand(&storev1.Operation{Kind: deletion, Key: "a", Value: []byte(long)}), trimCommand(99, 99))
	seed(&storev1.Command{Body: &storev1.Command_Opaque{Opaque: []byte("x")}})
	f.Add([]byte{entryVersion, 8, 2})
	f.Add([]byte{2})
	a, b := newServing(f, Options{}), newServing(f, Options{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := DecodeEntry(raw)
		if err != nil {
			if !refusal(err) {
				t.Fatal(err)
			}
			return
		}
		again, err := DecodeEntry(must(EncodeEntry(e)))
		if err != nil {
			t.Fatal(err)
		}
		index := a.shard.meta.AppliedIndex + 1
		ra, errA := a.shard.Apply(a.batch, index, 1, e)
		rb, errB := b.shard.Apply(b.batch, index, 1, again)
		if (errA == nil) != (errB == nil) || (errA != nil && !refusal(errA)) {
			t.Fatal(errA, errB)
		}
		if fmt.Sprint(ra) != fmt.Sprint(rb) {
			t.Fatalf("%v\n%v", ra, rb)
		}
		if err := errors.Join(a.batch.Commit(), b.batch.Commit()); err != nil {
			t.Fatal(err)
		}
		stream := exportOf(t, a.store, testShard)
		if !bytes.Equal(stream, exportOf(t, b.store, testShard)) {
			t.Fatal("the replicas export different streams")
		}
		checkDigests(t, a.store, testShard)
		if _, err := b.store.Stage("staged", bytes.NewReader(stream)); err != nil {
			t.Fatalf("what was applied cannot be installed elsewhere: %v", err)
		}
	})
}

// FuzzStagedHeader puts bytes over the header of a staged snapshot. Ingest refuses it, or takes in what was staged; whether the checksum is put
// right or not, it neither panics nor harms the store.
func FuzzStagedHeader(f *testing.F) {
	stream := exportOf(f, newFull(f, Options{}).store, testShard)
	disk := newDisk()
	target := openStore(f, testOptions(disk))
	path := disk.PathJoin("staged", stagedHeader)
	stage := func(t testing.TB) []byte {
		if _, err := target.Stage("staged", bytes.NewReader(stream)); err != nil {
			t.Fatal(err)
		}
		return readFile(t, disk, path)
	}
	sound := stage(f)
	body := sound[:len(sound)-chunkCRCLen]
	f.Add(uint8(0), sound, false)
	f.Add(uint8(0), sound[:5], false)
	f.Add(uint8(0), []byte{2}, false)
	f.Add(uint8(1), []byte{0xff, 0xff, 0xff, 0xff}, true)
	f.Add(uint8(1), []byte{0, 0, 0, 0}, true)
	f.Add(uint8(len(body)-1), []byte{0xff}, true)
	f.Fuzz(func(t *testing.T, at uint8, over []byte, sealed bool) {
		was := stage(t)
		content := bytes.Clone(was)
		if at == 0 {
			content = over
		} else {
			copy(content[min(int(at), len(content)):], over)
		}
		if sealed && len(content) > chunkCRCLen {
			content = content[:len(content)-chunkCRCLen]
			content = binary.BigEndian.AppendUint32(content, crc32.Checksum(content, castagnoli))
		}
		writeFile(t, disk, path, content)
		err := target.Ingest(testShard, "staged")
		switch {
		case err != nil && !refusal(err):
			t.Fatal(err)
		case err == nil && !sealed && !bytes.Equal(content, was):
			t.Fatal("a damaged header was taken")
		case err == nil && bytes.Equal(content, was):
			checkDigests(t, target, testShard)
		}
		if _, err := target.Shard(testShard); err == nil {
			if err := target.Drop(testShard); err != nil {
				t.Fatal(err)
			}
		}
	})
}
