package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// listenMetrics opens the address for Prometheus. It must be a loopback one: the
// names of accounts and volumes are nobody else's business.
func listenMetrics(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, fmt.Sprintf("metrics address %q: %v", address, err))
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, api.Errorf(api.CodeInvalid, fmt.Sprintf("metrics address %q is not a loopback address", address))
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}

// serveMetrics answers Prometheus until the listener is closed.
func (s *Supervisor) serveMetrics(l net.Listener) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{s})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	if err := server.Serve(l); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Error("metrics", "err", err)
	}
}

// collector turns the status into metrics whenever it is asked.
type collector struct{ s *Supervisor }

var (
	byAccount = []string{"account"}
	byVolume  = []string{"account", "volume"}

	accountState   = describe("account_state", "1 for the state the account is in, 0 for the others.", "account", "state")
	leaseExpires   = describe("lease_expires_timestamp_seconds", "When volumes are suspended unless the key answers before.", byAccount...)
	lastSuccess    = describe("key_last_success_timestamp_seconds", "When the key last decrypted the account encryption key.", byAccount...)
	lastCheck      = describe("key_last_check_timestamp_seconds", "When the key was last asked.", byAccount...)
	keyExpires     = describe("key_expires_in_seconds", "How long until the key expires, negative if it has; absent for one that does not.", byAccount...)
	credExpires    = describe("credential_expires_in_seconds", "The same of the credential that asks for the key.", byAccount...)
	auditLost      = describe("audit_lost_events_total", "Events that could not be stored in the audit log since the daemon has started.", byAccount...)
	moveStarted    = describe("key_move_started_timestamp_seconds", "When the rotation or transition began that is not finished; absent if there is none.", byAccount...)
	volumeState    = describe("volume_state", "1 for the state the volume is in, 0 for the others.", "account", "volume", "state")
	volumeQuota    = describe("volume_quota_bytes", "The volume's quota, 0 for none.", byVolume...)
	volumeUsed     = describe("volume_used_bytes", "What the volume's files take, while it is served.", byVolume...)
	volumeFiles    = describe("volume_files", "The volume's files and folders, while it is served.", byVolume...)
	volumeRestarts = describe("volume_worker_restarts_total", "Workers that died since the volume was mounted.", byVolume...)
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("cmkfs_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		accountState, leaseExpires, lastSuccess, lastCheck, keyExpires, credExpires, auditLost, moveStarted,
		volumeState, volumeQuota, volumeUsed, volumeFiles, volumeRestarts,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	st, err := c.s.status(context.Background())
	if err != nil {
		c.s.log.Error("metrics", "err", err)
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	at := func(d *prometheus.Desc, t time.Time, labels ...string) {
		if !t.IsZero() {
			gauge(d, float64(t.UnixMilli())/1000, labels...)
		}
	}
	until := func(d *prometheus.Desc, t time.Time, labels ...string) {
		if !t.IsZero() {
			gauge(d, time.Until(t).Seconds(), labels...)
		}
	}
	is := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for _, a := range c.s.accounts() {
		ch <- prometheus.MustNewConstMetric(auditLost, prometheus.CounterValue, float64(a.audit.Lost()), a.name)
	}
	for _, a := range st.Accounts {
		for _, state := range account.States {
			gauge(accountState, is(a.State == string(state)), a.Name, string(state))
		}
		at(leaseExpires, a.LeaseExpires, a.Name)
		at(lastSuccess, a.LastSuccess, a.Name)
		at(lastCheck, a.LastCheck, a.Name)
		if a.Unfinished != nil {
			at(moveStarted, a.Unfinished.Started, a.Name)
		}
		until(keyExpires, a.KeyExpires, a.Name)
		until(credExpires, a.CredentialExpires, a.Name)
		for _, v := range a.Volumes {
			for _, state := range []string{api.VolumeUnmounted, api.VolumeOnline, api.VolumeSuspending, api.VolumeSuspended, api.VolumeRestoring} {
				gauge(volumeState, is(v.State == state), a.Name, v.Name, state)
			}
			gauge(volumeQuota, float64(v.QuotaBytes), a.Name, v.Name)
			if v.State == api.VolumeOnline {
				gauge(volumeUsed, float64(v.UsedBytes), a.Name, v.Name)
				gauge(volumeFiles, float64(v.Files), a.Name, v.Name)
			}
			ch <- prometheus.MustNewConstMetric(volumeRestarts, prometheus.CounterValue, float64(v.Restarts), a.Name, v.Name)
		}
	}
}
