"""nginx as the second yardstick: what a proxy in C costs that looks at nothing."""

import shutil
from pathlib import Path

CONFIG = """
daemon off; master_process off; pid {home}/nginx.pid; error_log {home}/nginx.log error;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 10000000; client_max_body_size 64m; client_body_buffer_size 1m;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    location / {{ proxy_pass http://mock; }}
  }}
}}
"""


def binary() -> str | None:
    """Where nginx is, or None; /usr/sbin is not on every user's path."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def command(home: Path, port: int, upstream: int) -> list[str]:
    """Write the configuration into `home` and return what starts it."""
    found = binary()
    assert found is not None, "ask binary() first"
    file = home / "nginx.conf"
    file.write_text(CONFIG.format(home=home, port=port, upstream=upstream))
    return [found, "-p", str(home), "-c", str(file)]
