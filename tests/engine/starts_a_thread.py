"""What a module does that a copied process may not have imported."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
