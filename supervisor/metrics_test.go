package supervisor_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// serveMetrics has daemons that are started from now on serve metrics, and
// returns where.
func serveMetrics(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("CMKFS_TEST_METRICS", l.Addr().String())
	return l.Addr().String()
}

// metrics are what a daemon serves.
func metrics(t *testing.T, address string) string {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	return string(b)
}

func TestMetrics_OfOneVolume(t *testing.T) {
	address := serveMetrics(t)
	newRig(t)
	b := metrics(t, address)
	for _, want := range []string{
		`cmkfs_account_state{account="acct",state="online"} 1`,
		`cmkfs_volume_state{account="acct",state="online",volume="vol"} 1`,
		`cmkfs_volume_state{account="acct",state="suspended",volume="vol"} 0`,
		`cmkfs_volume_worker_restarts_total{account="acct",volume="vol"} 0`,
		`cmkfs_lease_expires_timestamp_seconds{account="acct"} `,
		`cmkfs_volume_used_bytes{account="acct",volume="vol"} `,
	} {
		if !strings.Contains(b, want) {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
}

func TestMetrics_LoopbackOnly(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "192.0.2.1:9105", "nonsense"} {
		t.Setenv("CMKFS_TEST_METRICS", address)
		if d, err := tryDaemon(t, t.TempDir()); err == nil {
			d.stop()
			t.Errorf("%s was accepted", address)
		}
	}
}
