{{/* Labels of every object. */}}
{{- define "kube-cache.labels" -}}
app.kubernetes.io/name: kube-cache
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels by which a Pod is selected. Argument: the component, operator or agent. */}}
{{- define "kube-cache.selector" -}}
app.kubernetes.io/name: kube-cache
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Image of a process. Arguments: root, tag (of the component; empty = that of both). */}}
{{- define "kube-cache.image" -}}
{{- $image := .root.Values.image -}}
{{- if .tag -}}
{{ $image.repository }}:{{ .tag }}
{{- else if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/*
Variables that operator, agent and the registration of the search attributes have in common: how Temporal is found.
*/}}
{{- define "kube-cache.temporalEnv" -}}
{{- with .Values.temporal }}
- name: TEMPORAL_ADDRESS
  value: {{ .address | quote }}
- name: TEMPORAL_NAMESPACE
  value: {{ .namespace | quote }}
{{- if .apiKey.secretName }}
- name: TEMPORAL_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .apiKey.secretName }}
      key: {{ .apiKey.key }}
{{- end }}
{{- if or .tls.enabled .tls.secretName }}
- name: TEMPORAL_TLS
  value: "true"
{{- end }}
{{- with .tls.serverName }}
- name: TEMPORAL_TLS_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- if .tls.secretName }}
- name: TEMPORAL_TLS_CLIENT_CERT_PATH
  value: /etc/kube-cache/temporal/tls.crt
- name: TEMPORAL_TLS_CLIENT_KEY_PATH
  value: /etc/kube-cache/temporal/tls.key
{{- end }}
{{- if .tls.authority }}
- name: TEMPORAL_TLS_SERVER_CA_CERT_PATH
  value: /etc/kube-cache/temporal/ca.crt
{{- end }}
{{- end }}
{{- end }}

{{/* Variables that operator and agent have in common beside Temporal's. */}}
{{- define "kube-cache.commonEnv" -}}
{{- include "kube-cache.temporalEnv" . }}
{{- with .Values.origin.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with .Values.origin.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.origin.webIdentity.roleArn }}
- name: AWS_ROLE_ARN
  value: {{ . | quote }}
- name: AWS_WEB_IDENTITY_TOKEN_FILE
  value: /var/run/secrets/kube-cache/aws/token
{{- end }}
{{- with .Values.origin.allowedBuckets }}
- name: KUBE_CACHE_ORIGIN__ALLOWED_BUCKETS
  value: {{ join "," . | quote }}
{{- end }}
- name: KUBE_CACHE_TELEMETRY__LOG_FORMAT
  value: json
- name: KUBE_CACHE_TELEMETRY__LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: KUBE_CACHE_TELEMETRY__HTTP_ADDRESS
  value: 0.0.0.0:9464
{{- with .Values.otel.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/*
A container's variables: what the chart sets, and what the user adds; of two with one name the user's counts.
Arguments: ours (YAML), more (lists of lists).
*/}}
{{- define "kube-cache.env" -}}
{{- $names := dict -}}
{{- $theirs := list -}}
{{- range .more -}}
  {{- range . -}}
    {{- $_ := set $names .name true -}}
  {{- end -}}
  {{- $theirs = concat . $theirs -}}
{{- end -}}
{{- $all := list -}}
{{- range fromYamlArray .ours -}}
  {{- if not (hasKey $names .name) -}}
    {{- $all = append $all . -}}
  {{- end -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $theirs -}}
  {{- if not (hasKey $seen .name) -}}
    {{- $_ := set $seen .name true -}}
    {{- $all = append $all . -}}
  {{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end }}

{{/* Credentials of the origin, if the Secret is there. Without it the Pod's own identity is used. */}}
{{- define "kube-cache.originSecret" -}}
{{- with .Values.origin.secretName -}}
- secretRef:
    name: {{ . }}
    optional: true
{{- end }}
{{- end }}

{{/* Mounts and volumes that operator and agent have in common: certificates of Temporal, a token for AWS. */}}
{{- define "kube-cache.commonMounts" -}}
{{- if or .Values.temporal.tls.secretName .Values.temporal.tls.authority }}
- name: temporal
  mountPath: /etc/kube-cache/temporal
  readOnly: true
{{- end }}
{{- if .Values.origin.webIdentity.roleArn }}
- name: web-identity
  mountPath: /var/run/secrets/kube-cache/aws
  readOnly: true
{{- end }}
{{- end }}

{{- define "kube-cache.commonVolumes" -}}
{{- with .Values.temporal.tls }}
{{- if or .secretName .authority }}
- name: temporal
  projected:
    sources:
      {{- if .secretName }}
      - secret:
          name: {{ .secretName }}
          items:
            - {key: tls.crt, path: tls.crt}
            - {key: tls.key, path: tls.key}
      {{- end }}
      {{- if .authority }}
      - secret:
          name: {{ .authority }}
          items:
            - {key: ca.crt, path: ca.crt}
      {{- end }}
{{- end }}
{{- end }}
{{- with .Values.origin.webIdentity }}
{{- if .roleArn }}
- name: web-identity
  projected:
    sources:
      # For AWS and nobody else: the API server refuses a token of this audience.
      - serviceAccountToken: {audience: {{ .audience }}, expirationSeconds: 3600, path: token}
{{- end }}
{{- end }}
{{- end }}

{{/* Probes of operator and agent. */}}
{{- define "kube-cache.probes" -}}
# No startup probe: /healthz asks whether the event loop turns, which it does from the first second on. Recovery of a
# large disk and the wait for Temporal are a matter of /readyz alone.
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  initialDelaySeconds: 10
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{- define "kube-cache.operatorEnv" -}}
{{- include "kube-cache.commonEnv" . }}
- name: KUBE_CACHE_TELEMETRY__TEMPORAL_METRICS_ADDRESS
  value: 0.0.0.0:9465
- name: KUBE_CACHE_OPERATOR__CACHE_ROOT
  value: {{ .Values.cache.root }}
- name: KUBE_CACHE_OPERATOR__SEAT_IMAGE
  value: {{ .Values.seat.image }}
{{- with .Values.agent.nodeSelector }}
- name: KUBE_CACHE_OPERATOR__NODE_SELECTOR
  {{- $labels := list }}
  {{- range $key, $value := . }}
  {{- $labels = append $labels (printf "%s=%s" $key $value) }}
  {{- end }}
  value: {{ join "," $labels | quote }}
{{- end }}
{{- if ne .Values.operator.page "none" }}
- name: KUBE_CACHE_OPERATOR__PAGE_ADDRESS
  value: {{ eq .Values.operator.page "network" | ternary "0.0.0.0:9466" ":9466" | quote }}
{{- end }}
{{- with .Values.forecast }}
{{- if .enabled }}
- name: KUBE_CACHE_FORECAST__ENABLED
  value: "true"
- name: KUBE_CACHE_FORECAST__PROMETHEUS_URL
  value: {{ .prometheus | quote }}
- name: KUBE_CACHE_FORECAST__TIME_ZONE
  value: {{ .timeZone | quote }}
- name: KUBE_CACHE_FORECAST__NAMESPACE
  value: {{ .namespace | quote }}
- name: KUBE_CACHE_FORECAST__MIN_HIT_RATE
  value: {{ .minHitRate | quote }}
- name: KUBE_CACHE_FORECAST__MAX_WASTED
  value: {{ .maxWasted | quote }}
- name: KUBE_CACHE_FORECAST__MAX_COPIES
  value: {{ int64 .maxCopies | quote }}
- name: KUBE_CACHE_FORECAST__MAX_BYTES
  value: {{ int64 .maxBytes | quote }}
{{- if .maxPlaceholders }}
- name: KUBE_CACHE_FORECAST__MAX_PLACEHOLDERS
  value: {{ int64 .maxPlaceholders | quote }}
- name: KUBE_CACHE_FORECAST__PLACEHOLDER_RESOURCES
  value: {{ join "," .placeholderResources | quote }}
- name: KUBE_CACHE_FORECAST__PLACEHOLDER_TOLERATIONS
  value: {{ join "," .placeholderTolerations | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if include "kube-cache.feeds" . }}
- name: KUBE_CACHE_OPERATOR__PEER_KEY_FILE
  value: /etc/kube-cache/peers/tls.key
- name: KUBE_CACHE_OPERATOR__PEER_CERTIFICATE_FILE
  value: /etc/kube-cache/peers/tls.crt
{{- if not .Values.peers.authority.existing }}
- name: KUBE_CACHE_OPERATOR__PEER_AUTHORITY
  value: {{ include "kube-cache.peersAuthority" . }}
{{- end }}
{{- if not .Values.peers.certificates.existing }}
- name: KUBE_CACHE_OPERATOR__ISSUER_ADDRESS
  value: 0.0.0.0:9468
{{- with .Values.peers.rackLabel }}
- name: KUBE_CACHE_OPERATOR__RACK_LABEL
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "kube-cache.agentEnv" -}}
{{- include "kube-cache.commonEnv" . }}
- name: KUBE_CACHE_AGENT__NODE
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: KUBE_CACHE_AGENT__DRAIN_S
  value: {{ .Values.agent.drainSeconds | quote }}
- name: KUBE_CACHE_STORE__ROOT
  value: {{ .Values.cache.root }}
- name: KUBE_CACHE_STORE__ALLOW_ROOT_DISK
  value: {{ .Values.cache.allowRootDisk | quote }}
- name: KUBE_CACHE_STORE__MIN_FREE
  value: {{ .Values.cache.minFree | quote }}
- name: KUBE_CACHE_ENGINE__MAX_CONNECTIONS
  value: {{ .Values.agent.maxConnections | quote }}
{{- if include "kube-cache.feeds" . }}
- name: KUBE_CACHE_PEERS__ENABLED
  value: "true"
- name: KUBE_CACHE_PEERS__ADVERTISE
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: KUBE_CACHE_PEERS__SEEDS
  value: kube-cache-agents.kube-cache-system.svc:9467
- name: KUBE_CACHE_PEERS__TOKEN_KEYS_FILE
  value: /etc/kube-cache/peer-authority/ca.crt
- name: KUBE_CACHE_PEERS__MAX_BYTES_PER_S
  value: {{ int64 .Values.peers.maxBytesPerSecond | quote }}
{{- if .Values.peers.certificates.existing }}
- name: KUBE_CACHE_PEERS__CA_FILE
  value: /etc/kube-cache/peers/ca.crt
{{- else }}
- name: KUBE_CACHE_PEERS__CA_FILE
  value: /etc/kube-cache/peer-authority/ca.crt
- name: KUBE_CACHE_PEERS__ISSUER
  value: kube-cache-issuer.kube-cache-system.svc:9468
{{- end }}
{{- end }}
{{- end }}

{{/*
Whether nodes feed each other: "true", or nothing. Before 1.32 an agent's token names no node, so that the operators cannot
tell whose certificate to issue.
*/}}
{{- define "kube-cache.feeds" -}}
{{- if and .Values.peers.enabled (or .Values.peers.certificates.existing (semverCompare ">=1.32-0" .Capabilities.KubeVersion.Version)) -}}
true
{{- end -}}
{{- end }}

{{/* Name of the authority's Secret (operators) and ConfigMap (agents). */}}
{{- define "kube-cache.peersAuthority" -}}
{{ .Values.peers.authority.existing | default "kube-cache-peers" }}
{{- end }}

{{/*
Memory limit of an agent, MiB: the engine's bound (docs/operate/engine.md), which is 40 and 2 for each connection, or 1 from 16
connections on, and what the agent around it takes.
*/}}
{{- define "kube-cache.agentMemoryMi" -}}
{{- $connections := int .Values.agent.maxConnections -}}
{{- $buffers := ternary $connections (mul 2 $connections) (ge $connections 16) -}}
{{- add 40 $buffers (int .Values.agent.baseMemoryMi) -}}
{{- end }}
