from tests.peers.conftest import azure_url as azure_url
