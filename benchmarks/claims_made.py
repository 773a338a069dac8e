from claims_found import claim
CLAIMS=[]
