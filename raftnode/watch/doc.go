// Package watch turns what a node applies into what its watchers see. It is above state and knows no Raft, no clock and no network.
//
// A watcher is a cursor over the history of one shard (R22). While it keeps up, the hub hands it revisions that are read and decoded once for
// all; when it does not, it forgets them and reads the history by itself, in bounded pages, until it has caught up. DESIGN.md has the reasons.
package watch
