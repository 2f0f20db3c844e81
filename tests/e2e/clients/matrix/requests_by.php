<?php
// Usage: requests_by.php curl|streams BASE CA COUNT; CA "-": what the configuration says.
[, $way, $base, $ca, $count] = $argv;
function by_curl($handle, string $url, string $ca, int $i): void {
  curl_reset($handle);
  curl_setopt_array($handle, [CURLOPT_URL => $url, CURLOPT_RETURNTRANSFER => true]);
  if ($ca != '-') curl_setopt($handle, CURLOPT_CAINFO, $ca);
  if ($i % 2) curl_setopt_array($handle, [CURLOPT_POST => true, CURLOPT_POSTFIELDS => str_repeat('b', $i)]);
  if (!curl_exec($handle)) exit(1);
}
function by_streams(string $url, string $ca, int $i): void {
  $http = $i % 2 ? ['method' => 'POST', 'content' => str_repeat('b', $i), 'header' => 'Content-Type: text/plain'] : [];
  if (!file_get_contents($url, false, stream_context_create(['ssl' => $ca == '-' ? [] : ['cafile' => $ca], 'http' => $http]))) exit(1);
}
$kept = $way == 'curl' ? curl_init() : null;
for ($i = 0; $i < $count; $i++) {
  if ($way == 'curl') by_curl($i < $count / 2 ? $kept : curl_init(), "$base/$i", $ca, $i);
  else by_streams("$base/$i", $ca, $i);
}
