{{- define "edge-sidecars.name" -}}
{{- if eq .Values.mode "native-sidecar" }}edge{{ else }}sidecars{{ end -}}
{{- end }}

{{- define "edge-sidecars.fullname" -}}
{{- printf "%s-%s" .Release.Name (include "edge-sidecars.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "edge-sidecars.selector" -}}
app.kubernetes.io/name: {{ include "edge-sidecars.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "edge-sidecars.labels" -}}
{{ include "edge-sidecars.selector" . }}
app.kubernetes.io/part-of: edge-sidecars
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "edge-sidecars.tls" -}}
{{- if and (eq .Values.mode "service") .Values.tlsSecretName (not .Values.istio.enabled) }}true{{ end -}}
{{- end }}

{{- define "edge-sidecars.settings" -}}
{{- if .Values.settings -}}
{{ toYaml .Values.settings }}
{{- else if eq .Values.mode "service" -}}
{{ .Files.Get (ternary "files/service-tls.yaml" "files/service.yaml" (eq (include "edge-sidecars.tls" .) "true")) }}
{{- else -}}
{{ .Files.Get (printf "files/%s.yaml" .Values.mode) }}
{{- end -}}
{{- end }}

{{- define "edge-sidecars.container" -}}
name: sidecars
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [run, all, --config, /etc/sidecars/settings/sidecars.yaml]
env:
  - {name: TMPDIR, value: {{ ternary "/run/sidecars" "/tmp" (eq .Values.mode "native-sidecar") }}}
ports:
  {{- if eq .Values.mode "service" }}
  - {name: authz, containerPort: 9001}
  - {name: ratelimit, containerPort: 9002}
  - {name: accesslog, containerPort: 9003}
  {{- end }}
  - {name: admin, containerPort: 9090}
startupProbe: {httpGet: {path: /readyz, port: admin}, periodSeconds: 1, failureThreshold: 60}
readinessProbe: {httpGet: {path: /readyz, port: admin}, periodSeconds: 5}
# /readyz would restart a process that drains.
livenessProbe: {httpGet: {path: /healthz, port: admin}, periodSeconds: 10, timeoutSeconds: 5}
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext: {{- include "edge-sidecars.security" . | nindent 2 }}
volumeMounts:
  {{- if ne .Values.mode "service" }}
  - {name: sockets, mountPath: /run/sidecars}
  {{- end }}
  {{- if ne .Values.mode "native-sidecar" }}
  - {name: tmp, mountPath: /tmp}
  {{- end }}
  - {name: settings, mountPath: /etc/sidecars/settings, readOnly: true}
  - {name: policy, mountPath: /etc/sidecars/policy, readOnly: true}
  - {name: limits, mountPath: /etc/sidecars/limits, readOnly: true}
  {{- if .Values.secretName }}
  - {name: secrets, mountPath: /etc/sidecars/secrets, readOnly: true}
  {{- end }}
  {{- if include "edge-sidecars.tls" . }}
  - {name: tls, mountPath: /etc/sidecars/tls, readOnly: true}
  {{- end }}
{{- end }}

{{- define "edge-sidecars.security" -}}
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "edge-sidecars.volumes" -}}
{{- if eq .Values.mode "native-sidecar" }}
- {name: sockets, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
- {name: envoy, configMap: {name: {{ include "edge-sidecars.fullname" . }}-envoy}}
{{- else }}
- {name: tmp, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
{{- end }}
{{- if eq .Values.mode "daemonset" }}
- {name: sockets, hostPath: {path: /run/sidecars, type: DirectoryOrCreate}}
{{- end }}
# Never with subPath: the kubelet does not update such a file.
- {name: settings, configMap: {name: {{ include "edge-sidecars.fullname" . }}-settings}}
- {name: policy, configMap: {name: {{ include "edge-sidecars.fullname" . }}-policy}}
- {name: limits, configMap: {name: {{ include "edge-sidecars.fullname" . }}-limits}}
{{- if .Values.secretName }}
- {name: secrets, secret: {secretName: {{ .Values.secretName }}, defaultMode: {{ ternary 292 288 (eq .Values.mode "daemonset") }}}}
{{- end }}
{{- if include "edge-sidecars.tls" . }}
- {name: tls, secret: {secretName: {{ .Values.tlsSecretName }}, defaultMode: 288}}
{{- end }}
{{- end }}

{{- define "edge-sidecars.pod" -}}
metadata:
  labels:
    {{- include "edge-sidecars.labels" . | nindent 4 }}
    {{- if .Values.istio.enabled }}
    sidecar.istio.io/inject: "true"
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "edge-sidecars.fullname" . }}
  automountServiceAccountToken: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  # Longer than Envoy's pause before it stops, and then the drain of the sidecars, which takes up to 17 s.
  terminationGracePeriodSeconds: {{ ternary 60 30 (eq .Values.mode "native-sidecar") }}
  securityContext:
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- if eq .Values.mode "native-sidecar" }}
  initContainers:
    # A native sidecar: it starts before Envoy, is restarted if it ends, and stops after Envoy.
    - restartPolicy: Always
      {{- include "edge-sidecars.container" . | nindent 6 }}
  containers:
    - name: envoy
      image: {{ .Values.envoy.image }}
      args: [--config-path, /etc/envoy/envoy.yaml, --disable-hot-restart, --log-level, warning]
      ports: [{name: http, containerPort: 10000}]
      readinessProbe: {tcpSocket: {port: http}, periodSeconds: 5}
      livenessProbe: {tcpSocket: {port: http}, periodSeconds: 10, timeoutSeconds: 5}
      # Until every node and load balancer has noticed that this pod ends, it gets new requests.
      lifecycle: {preStop: {sleep: {seconds: 15}}}
      resources: {{- toYaml .Values.envoy.resources | nindent 8 }}
      securityContext: {{- include "edge-sidecars.security" . | nindent 8 }}
      volumeMounts:
        - {name: sockets, mountPath: /run/sidecars}
        - {name: envoy, mountPath: /etc/envoy, readOnly: true}
  {{- else }}
  {{- if eq .Values.mode "daemonset" }}
  priorityClassName: system-node-critical
  initContainers:
    # The kubelet makes the folder as root, and fsGroup does not apply to hostPath.
    - name: folder
      image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
      command: [sh, -c, "chown 0:10001 /run/sidecars && chmod 0770 /run/sidecars"]
      resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
      securityContext:
        runAsUser: 0
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL], add: [CHOWN]}
      volumeMounts: [{name: sockets, mountPath: /run/sidecars}]
  {{- end }}
  containers:
    - {{- include "edge-sidecars.container" . | nindent 6 }}
  {{- end }}
  volumes: {{- include "edge-sidecars.volumes" . | nindent 4 }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with (ternary (list (dict "operator" "Exists")) .Values.tolerations (and (eq .Values.mode "daemonset") (empty .Values.tolerations))) }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
