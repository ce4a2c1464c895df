package mutant

// Clock gives a program of package cmd/api a wall clock that jumps: SIGUSR1 sets it an
// hour ahead, and SIGUSR2 sets it right again. Its monotonic clock runs on, as when NTP
// steps the clock of a host. It breaks nothing: the service must not mind.
//
// libfaketime cannot do this. It replaces functions of the C library, which Go does not
// call, and a namespace of time shifts only the monotonic clock.
var Clock = Mutant{
	Name:  "clock",
	About: "SIGUSR1 sets the wall clock an hour ahead, SIGUSR2 sets it right.",
	Edits: []Edit{
		{inGoRoot + "time/time.go", "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n", `func Now() Time {
	sec, nsec, mono := runtimeNow()
	sec += wallClockAhead.Load()
`},
		{inGoRoot + "time/time.go", "// Now returns the current local time.\n", `var wallClockAhead atomic.Int64 // in seconds

// SetWallClockAhead makes Now return a wall clock reading that is ahead by that many seconds.
func SetWallClockAhead(seconds int64) { wallClockAhead.Store(seconds) }

// Now returns the current local time.
`},
		{inGoRoot + "time/time.go", "import (\n", "import (\n\t\"sync/atomic\"\n"},
		{mainFile, "import (\n", "import (\n\t\"time\"\n"},
		{mainFile, "func main() {\n", `// jump follows the signals that move the wall clock.
func jump() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	for s := range signals {
		ahead := int64(0)
		if s == syscall.SIGUSR1 {
			ahead = 3600
		}
		time.SetWallClockAhead(ahead)
	}
}

func main() {
	go jump()
`},
	},
}

const mainFile = "cmd/api/main.go"
