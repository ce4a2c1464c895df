//go:build !unix

package mutant

import "os/exec"

// killWithChildren does nothing here: the end of cmd's context kills cmd alone.
func killWithChildren(*exec.Cmd) {}
