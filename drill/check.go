package drill

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cmkfs/supervisor/api"
)

// canary is the text that is looked for: it is in every content and name of the
// probe, and nowhere else.
func canary(seed uint64, drill string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "canary %d %s %d", seed, drill, time.Now().UnixNano()))
	return hex.EncodeToString(h[:16])
}

// leaveBehind puts a canary where none may be.
func leaveBehind(s *scene, canary string) error {
	return os.WriteFile(filepath.Join(s.state.Path(), "left-behind"), []byte(canary), 0o600)
}

// checkVolume unmounts a rig's volume and has every block of it examined. It
// returns what is wrong in one sentence.
func (s *scene) checkVolume(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.paced(time.Minute))
	defer cancel()
	var last error
	// A process that was killed may keep a file open for a moment.
	if err := await(ctx, s.paced(20*time.Second), "the volume is unmounted", func() (bool, error) {
		_, last = s.client.Unmount(ctx, s.account, s.volume, api.Unmount{})
		return last == nil, last
	}); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, s.program, "--state-dir", s.state.Path(), "volume", "check", s.volume, "--scrub")
	cmd.Env, cmd.Dir, cmd.WaitDelay = s.env, "/", time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, strings.Join(strings.Fields(string(out)), " ")), nil
	}
	return "", nil
}
