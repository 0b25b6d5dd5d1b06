//go:build planted

package planted

import "os"

// active is read once: a bug is there from the start of a process or not at all.
var active = Bug(os.Getenv("RAFTKV_BUG"))

// Is says whether a bug is to show.
func Is(b Bug) bool { return b == active }
